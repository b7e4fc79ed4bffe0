"""vLLM's cache of keys and values: pages of one layer, blocks of a group of layers, blocks that a request takes.

Every layer says what a page of it is (a `Page`): tokens and bytes, or one recurrent state. Layers alike form groups of
equal depth, whose pages lie side by side; a block is one page of each layer of a group, and all groups draw their
blocks from one pool. Pages of different layers are made equally large: by more tokens in the smaller one, or by padding
a state.

Source: vllm/v1/kv_cache_interface.py, vllm/v1/core/kv_cache_utils.py (0.19.0), kv_cache_planning.py (0.33.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING, Any, Literal

from oomph.errors import UnsupportedError

if TYPE_CHECKING:
    from oomph.engines.vllm.job import Version

HYBRID: Version = (0, 9, 2)  # windows free the blocks they have passed from here on
WHOLE_BLOCKS: Version = (0, 9, 0)  # concurrency counts whole blocks of a request, not tokens
PADS_ATTENTION: Version = (0, 24, 0)  # a page that divides no other is padded: not in 0.23.0
ALIKE = Fraction(3, 2)  # kinds of layers whose numbers differ by less go into groups of the larger

Amount = Any  # an int or a numpy array of them


@dataclass(frozen=True)
class Page:
    """What one layer keeps in one block.

    `kind`: keys of all tokens ("full"), of a window, of a chunk, of an encoder's tokens ("cross"), or one "state" a
    request. `tokens` and `n_bytes` of a page; `span` is the window or chunk, of an encoder all its tokens; `states` the
    pages that a request takes of a state. `latent` pages never merge with others.
    """

    kind: Literal["full", "window", "chunk", "cross", "state"]
    tokens: int
    n_bytes: int
    span: int = 0
    states: int = 1
    latent: bool = False

    def pages(self, context: Amount, in_flight: int, shared_by: int = 1) -> Amount:
        """Return the pages that a request of `context` tokens takes of one layer.

        `in_flight` tokens may be on their way when a window moves on; `shared_by` devices keep a part of all each.

        >>> Page("full", 16, 4096).pages(100, 2048), Page("window", 16, 4096, 1024).pages(8192, 2048)
        (7, 193)
        """
        if self.kind == "state":
            return self.states + 0 * context
        if self.kind == "cross":
            return -(-self.span // self.tokens) + 0 * context
        if self.kind == "window":
            return -(-_at_most(context, self.span - 1 + in_flight) // self.tokens) + 1
        if self.kind == "chunk":
            return -(-_at_most(context, self.span + in_flight) // self.tokens)
        mine = -(-context // shared_by)
        return -(-mine // self.tokens)


@dataclass(frozen=True)
class Group:
    """Layers that take their blocks together. `layers` are their numbers; a page of each is in a block."""

    page: Page
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Pool:
    """Groups of layers that draw from one pool; `depth` pages of `page_bytes` are in a block.

    On a stage of a pipeline a block has the pages of its own layers only: `block_bytes(layers)`.
    """

    groups: tuple[Group, ...]
    in_flight: int
    shared_by: int = 1
    by_layer: tuple[tuple[int, int], ...] = ()  # of one group with pages of different sizes: layer, bytes

    def block_bytes(self, layers: range | None = None) -> int:
        """Return the bytes of one block on a device that has these layers, None for all."""
        if self.by_layer:
            return sum(size for layer, size in self.by_layer if layers is None or layer in layers)
        deepest = max(sum(layers is None or at in layers for at in group.layers) for group in self.groups)
        return deepest * self.groups[0].page.n_bytes

    def blocks(self, context: Amount) -> Amount:
        """Return the blocks that a request of `context` tokens takes."""
        return sum(group.page.pages(context, self.in_flight, self.shared_by) for group in self.groups)

    def tokens(self, blocks: int, max_model_len: int, derived: bool) -> int:
        """Return the tokens that vLLM prints for so many blocks; `derived` from the concurrency, as it does later."""
        if derived:
            return int(blocks / self.blocks(max_model_len) * max_model_len)
        smallest = min(group.page.tokens for group in self.groups)
        return blocks // len(self.groups) * smallest * self.shared_by

    def concurrency(self, blocks: int, max_model_len: int, by_tokens: bool = False) -> float:
        """Return the requests of the longest kind that so many blocks hold."""
        if by_tokens:
            return self.tokens(blocks, max_model_len, False) / max_model_len
        return float(blocks / self.blocks(max_model_len))


def _at_most(amount: Amount, most: int) -> Amount:
    return amount - (amount - most) * (amount > most)


def pool(
    pages: Sequence[tuple[int, Page]], version: Version, in_flight: int, shared_by: int = 1, hybrid: bool = True
) -> Pool:
    """Return the pool of layers, given as their numbers and pages; not `hybrid`: windows keep all tokens.

    Raises UnsupportedError where vLLM cannot make the pages equally large.

    >>> full, window = Page("full", 16, 4096), Page("window", 16, 4096, 128)
    >>> found = pool([(i, full if i % 2 else window) for i in range(24)], (0, 19, 0), 8192)
    >>> len(found.groups), found.block_bytes()
    (2, 49152)
    """
    if not hybrid or version < HYBRID:
        pages = [(at, _whole(page, pages)) for at, page in pages]
    distinct = list(dict.fromkeys(page for _, page in pages))
    if _one_kind(distinct):
        sizes = tuple((at, page.n_bytes) for at, page in pages) if len(distinct) > 1 else ()
        return Pool((Group(distinct[0], tuple(at for at, _ in pages)),), in_flight, shared_by, sizes)
    unified = _unify(distinct, version)
    buckets: dict[Page, list[int]] = {}
    for at, page in pages:
        buckets.setdefault(unified[page], []).append(at)
    return Pool(tuple(_groups(buckets)), in_flight, shared_by)


def _whole(page: Page, others: Sequence[tuple[int, Page]]) -> Page:
    """Return a window's page as one of all tokens, where there are such layers beside it."""
    full_too = any(other.kind == "full" for _, other in others)
    return replace(page, kind="full", span=0) if page.kind in ("window", "chunk") and full_too else page


def _one_kind(distinct: Sequence[Page]) -> bool:
    """Tell whether all layers need pages for the same tokens, however large each is."""
    first = distinct[0]
    return all(
        (p.kind, p.span, p.tokens, p.states) == (first.kind, first.span, first.tokens, first.states) for p in distinct
    )


def _unify(distinct: Sequence[Page], version: Version) -> dict[Page, Page]:
    """Return pages of one size: smaller ones take more tokens, states are padded."""
    largest = max(page.n_bytes for page in distinct)
    found: dict[Page, Page] = {}
    for page in distinct:
        if page.kind == "state":
            found[page] = replace(page, n_bytes=largest)
        elif largest % page.n_bytes == 0:
            found[page] = replace(page, tokens=page.tokens * (largest // page.n_bytes), n_bytes=largest)
        elif version >= PADS_ATTENTION and not page.latent:
            found[page] = replace(page, n_bytes=largest)
        else:
            raise UnsupportedError(
                f"vLLM cannot make pages of {page.n_bytes:,} and {largest:,} bytes equally large.",
                "It serves this model with --disable-hybrid-kv-cache-manager, if at all.",
            )
    return found


def _groups(buckets: dict[Page, list[int]]) -> list[Group]:
    """Cut each kind of layers into groups of equal depth, the last of them padded."""
    fewest, most = (pick(len(layers) for layers in buckets.values()) for pick in (min, max))
    depth = most if most < fewest * ALIKE else fewest
    found = []
    for page, layers in buckets.items():
        times = -(-len(layers) // depth)
        found += [Group(page, tuple(layers[first::times])) for first in range(times)]
    return found


def attention_block(state_bytes: int, token_bytes: int, align: int, chunk: int = 1) -> int:
    """Return the tokens of a block whose attention page is at least a state: a multiple of `align` (and `chunk`).

    Source: HybridAttentionMambaModelConfig, model_executor/models/config.py (0.19.0), platforms/interface.py (0.33.0).

    Qwen3.6-27B: 3,207,168 bytes of state, 4096 a token.
    >>> attention_block(3207168, 4096, 16)
    784
    """
    step = lcm(align, chunk)
    return step * -(-state_bytes // (step * token_bytes))
