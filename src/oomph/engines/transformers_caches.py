"""What transformers' own caches hold: dynamic, static, quantised and offloaded ones, in bytes of their tensors.

A cache has been filled by one pass over a prompt and by passes of one token after it. Of a layer with a window the
dynamic cache keeps window - 1 tokens, but as a view of all that the last pass attended to, so those bytes are held:
the whole prompt until the first token after it. All functions take ints or numpy arrays. Counters of 8 bytes that
layers keep beside their tensors are left out. Source: transformers 5.23, cache_utils.py, and the classes of
models/deepseek_v4, minimax, recurrent_gemma and rwkv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oomph.blocks.cached import Cached, StateCache, TokenCache
from oomph.dtypes import BITS
from oomph.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from oomph.caches import LayerCache

Amount = Any  # an int or a numpy array of them
STATE_DTYPE = "fp32"  # of recurrent states; what a convolution saw is in the model's dtype, and so is MiniMax's state
LATENT_STORED = 2  # DeepSeek-V4's layers that see a window alone keep their one vector as keys and as values
GATED = 2  # of what is not compressed yet, values and gates are kept


@dataclass(frozen=True)
class Filled:
    """How far a cache is filled: `batch` sequences (times beams), `prompt` tokens of each at once, `decoded` singly.

    `source`: tokens of an encoder or of images. `dtype` is the model's.
    """

    batch: Amount
    prompt: Amount
    decoded: Amount = 0
    source: Amount = 0
    dtype: str = "bf16"

    @property
    def tokens(self) -> Amount:
        """Tokens of each sequence that the model has seen."""
        return self.prompt + self.decoded


def dynamic_bytes(caches: Sequence[LayerCache], filled: Filled) -> Amount:
    """Return the bytes of DynamicCache(config), what `generate` makes by itself.

    Llama 3 8B at 8192 tokens:
    >>> from oomph import load
    >>> from oomph.caches import layer_caches
    >>> dynamic_bytes(layer_caches(load("llama-3-8b")), Filled(1, 8192)) / 2**30
    1.0
    """
    return sum(len(each.layers) * layer_bytes(each.cached, filled) for each in caches)


def layer_bytes(cached: Sequence[Cached], filled: Filled) -> Amount:
    """Return the bytes of one layer of a dynamic cache."""
    alone = all(isinstance(each, TokenCache) and each.kind == "latent" for each in cached)
    return sum(_dynamic(each, filled, LATENT_STORED if alone else 1) for each in cached)


def _dynamic(cached: Cached, filled: Filled, stored: int) -> Amount:
    if isinstance(cached, StateCache):
        return state_bytes(cached, filled)
    elements = _elements(cached, filled)
    if cached.kind == "latent" and cached.window is not None:
        elements = stored * elements
    return filled.batch * elements * BITS[filled.dtype] // 8


def _elements(cached: TokenCache, filled: Filled) -> Amount:
    """Return the elements of one sequence that a layer of the dynamic cache holds."""
    if cached.kind == "cross":
        return cached.per_token * (filled.source if cached.source_tokens is None else cached.source_tokens)
    if cached.kind == "compressed":
        return _compressed(cached, filled)
    window = cached.window or cached.chunk
    kept = filled.tokens if window is None else _last_pass(filled, window)
    return cached.per_token * kept + cached.index_dim * filled.tokens


def _last_pass(filled: Filled, window: int) -> Amount:
    """Return the tokens that the last pass attended to in a layer with a window."""
    if window == 1:  # the class keeps states[-0:], which are all
        return filled.tokens
    return (filled.decoded == 0) * filled.prompt + (filled.decoded > 0) * least(filled.tokens, window)


def _compressed(cached: TokenCache, filled: Filled) -> Amount:
    """Return the elements of DeepSeek-V4's compressor: its entries, tokens that wait for more, the last whole window.

    Tokens that wait are a view of those of the last pass.
    """
    width, ratio, tokens = cached.key_dim + cached.index_dim, cached.ratio, filled.tokens
    waiting = (filled.decoded == 0) * filled.prompt + (filled.decoded > 0) * ((tokens - 1) % ratio + 1)
    overlapped = ratio * (tokens >= ratio) if cached.overlap > 1 else 0
    return width * (tokens // ratio + GATED * (cached.overlap * waiting + overlapped))


def state_bytes(cached: StateCache, filled: Filled) -> Amount:
    """Return the bytes of a layer's states: what a convolution saw last, and the recurrent state.

    RWKV keeps the token before; RecurrentGemma keeps one token less than its convolution sees, of single tokens as a
    view of all that it saw.
    """
    kept: Amount = cached.conv_kernel
    if cached.kind == "rwkv":
        kept = kept - 1
    if cached.kind == "rg_lru":
        kept = kept - (filled.decoded == 0)
    state_dtype = filled.dtype if cached.kind == "lightning" else STATE_DTYPE
    bits = cached.conv_channels * kept * BITS[filled.dtype] + cached.state_elements * BITS[state_dtype]
    return filled.batch * bits // 8


def static_bytes(caches: Sequence[LayerCache], filled: Filled, length: Amount) -> Amount:
    """Return the bytes of StaticCache(config, max_cache_len=length), allocated in full at the first pass.

    Raises UnsupportedError for layers that transformers has no static cache of.
    """
    return sum(len(each.layers) * sum(_static(one, filled, length) for one in each.cached) for each in caches)


def _static(cached: Cached, filled: Filled, length: Amount) -> Amount:
    if isinstance(cached, StateCache):
        if cached.kind in ("lightning", "rwkv"):
            raise UnsupportedError(f"transformers has no static cache for {cached.kind}.", "Say --cache dynamic.")
        return state_bytes(cached, filled)
    if cached.kind == "compressed" or (cached.kind == "latent" and cached.window is not None):
        raise UnsupportedError("transformers has no static cache for compressed attention.", "Say --cache dynamic.")
    if cached.kind == "cross":
        return filled.batch * _elements(cached, filled) * BITS[filled.dtype] // 8
    window = cached.window or cached.chunk
    kept = length if window is None else least(length, window)
    return filled.batch * (cached.per_token * kept + cached.index_dim * length) * BITS[filled.dtype] // 8


@dataclass(frozen=True)
class Quantiser:
    """What QuantizedCache stores keys and values with: `backend` quanto, hqq or fp8, and the defaults of its class.

    Integer codes of `bits` in groups of `group_size`, with a scale and a zero in the model's dtype for each group;
    `axis` 0 is that of both classes. The last tokens, up to `residual` of them, are kept as they are, and added to the
    codes together. fp8 has one scale for all and no residual.
    """

    backend: str = "quanto"
    bits: int = 4
    group_size: int = 64
    residual: int = 128
    axis: int = 0

    def __post_init__(self) -> None:
        if self.backend not in CODES:
            raise UsageError(f"There is no backend {self.backend[:40]!r}.", f"Take one of {', '.join(CODES)}.")
        if self.backend != "fp8" and self.bits not in CODES[self.backend]:
            known = ", ".join(map(str, CODES[self.backend]))
            raise UsageError(f"{self.backend} has no codes of {self.bits} bits.", f"Take one of {known}.")
        if self.axis not in (0, 1) or min(self.group_size, self.residual) < 1:
            raise UsageError(
                "Groups lie along axis 0 or 1, and group size and residual are at least 1.", "Leave them out."
            )


# How many codes of so many bits share one stored number, and its bytes: quanto packs bytes, HQQ 3 bits in an int32.
BYTE = 1
INT32 = 4
CODES: dict[str, dict[int, tuple[int, int]]] = {
    "quanto": {4: (2, BYTE), 2: (4, BYTE)},
    "hqq": {8: (1, BYTE), 4: (2, BYTE), 3: (10, INT32), 2: (4, BYTE), 1: (8, BYTE)},
    "fp8": {},
}


def quantised_bytes(caches: Sequence[LayerCache], filled: Filled, quantiser: Quantiser) -> Amount:
    """Return the bytes of QuantizedCache(backend, config): codes, scales and the residual.

    Raises UnsupportedError for models with a layer that is no full attention, as the class does.
    """
    return sum(len(each.layers) * _quantised_layer(each.cached, filled, quantiser) for each in caches)


def _quantised_layer(cached: Sequence[Cached], filled: Filled, quantiser: Quantiser) -> Amount:
    for each in cached:
        if isinstance(each, StateCache) or each.kind not in ("attention", "latent"):
            raise UnsupportedError(f"transformers quantises no cache of kind {each.kind}.", "Say --cache dynamic.")
        if each.window or each.chunk or each.index_dim:
            raise UnsupportedError(
                "transformers quantises caches of models with full attention in every layer only.",
                "Say --cache dynamic.",
            )
    sizes = [heads_width for each in cached if isinstance(each, TokenCache) for heads_width in _two(each)]
    return sum(_quantised(width, filled, quantiser) for width in sizes)


def _two(cached: TokenCache) -> tuple[int, int]:
    """Return the elements of a token's keys and of its values, which are quantised apart."""
    if cached.kind == "latent":
        raise UnsupportedError(
            "A quantised cache of latent attention is not modelled: its two parts are no keys and values of one size.",
            "Say --cache dynamic.",
        )
    return cached.heads * cached.key_dim, cached.heads * cached.value_dim


def _quantised(width: int, filled: Filled, quantiser: Quantiser) -> Amount:
    """Return the bytes of a layer's keys, or of its values, of `width` elements a token."""
    number_bytes = BITS[filled.dtype] // 8
    if quantiser.backend == "fp8":
        return filled.batch * filled.tokens * width + BITS[STATE_DTYPE] // 8
    residual = filled.decoded % quantiser.residual
    elements = filled.batch * (filled.tokens - residual) * width
    if isinstance(elements, int) and elements % quantiser.group_size:
        raise UnsupportedError(
            f"{elements:,} numbers are no whole groups of {quantiser.group_size}, which the backends refuse.",
            "Take another group size, or a length and batch that it divides.",
        )
    groups = elements // quantiser.group_size
    together, stored_bytes = CODES[quantiser.backend][quantiser.bits]
    rows, columns = (quantiser.group_size, groups) if _codes_down(quantiser) else (groups, quantiser.group_size)
    codes = -(-rows // together) * columns * stored_bytes
    return codes + 2 * groups * number_bytes + filled.batch * residual * width * number_bytes


def _codes_down(quantiser: Quantiser) -> bool:
    """Tell whether codes of one group share bytes, not those of neighbouring groups: HQQ's axis 0, quanto's last."""
    return (quantiser.backend == "hqq") == (quantiser.axis == 0)


@dataclass(frozen=True)
class Offloaded:
    """What an offloaded cache holds: on the device between passes and at most within one, and in the machine's memory.

    Between passes the first layer is back already; while a layer attends, so is the next one.
    """

    resident_bytes: Amount
    attending_bytes: Amount
    host_bytes: Amount


def offloaded(caches: Sequence[LayerCache], filled: Filled, length: Amount | None = None) -> Offloaded:
    """Return where the bytes of an offloaded cache are after its last pass: dynamic, or static of `length`.

    What is brought back of a window are window - 1 tokens. States stay on the device, and windows of a static cache.
    """
    stays: Amount = 0
    moved: dict[int, tuple[Cached, ...]] = {}
    for each in caches:
        if _goes(each.cached, dynamic=length is None):
            moved |= dict.fromkeys(each.layers, each.cached)
        else:
            stays = stays + len(each.layers) * sum(_size(one, filled, length) for one in each.cached)
    if not moved:
        raise UnsupportedError("This model has no layer that transformers offloads.", "Say --cache dynamic.")
    before = replace(filled, decoded=filled.decoded - 1)
    order = [moved[place] for place in sorted(moved)]
    at_rest = {kept: sum(_size(one, filled, length, rest=True) for one in kept) for kept in set(order)}
    attending: Amount = 0
    for kept, following in zip(order, [*order[1:], None], strict=True):
        busy = sum(_size(one, filled, length) for one in kept)
        ready = at_rest[order[0]] if len(order) > 1 else 0  # to the last layer the first one is the next
        if following is not None:
            ready = (filled.decoded > 0) * sum(_size(one, before, length, rest=True) for one in following)
        attending = most(attending, busy + ready)
    host = sum(at_rest[kept] for kept in order[1:])
    return Offloaded(stays + at_rest[order[0]], stays + attending, host)


def _goes(cached: Sequence[Cached], dynamic: bool) -> bool:
    """Tell whether a layer is offloaded. Raises UnsupportedError for those whose way is not modelled."""
    states = [each for each in cached if isinstance(each, StateCache)]
    tokens = [each for each in cached if isinstance(each, TokenCache)]
    if any(each.kind in ("cross", "compressed") or (each.kind == "latent" and each.window) for each in tokens):
        raise UnsupportedError("How caches of encoder-decoders and DeepSeek-V4 are offloaded is not modelled.")
    if states and tokens:
        raise UnsupportedError("How layers with both a state and keys are offloaded is not modelled.")
    return bool(tokens) and (dynamic or not any(each.window or each.chunk for each in tokens))


def _size(cached: Cached, filled: Filled, length: Amount | None, rest: bool = False) -> Amount:
    """Return the bytes of what a layer keeps; at `rest` of a window only what the next pass needs."""
    if length is not None:
        return _static(cached, filled, length)
    if not rest or isinstance(cached, StateCache):
        return _dynamic(cached, filled, 1)
    window = cached.window or cached.chunk
    if window is None or window == 1:
        return _dynamic(cached, filled, 1)
    whole = replace(cached, window=None, chunk=None)
    return _dynamic(whole, replace(filled, prompt=least(filled.tokens, window - 1), decoded=0), 1)


def least(one: Amount, other: Amount) -> Amount:
    """Return the smaller of two numbers, or of two arrays place by place."""
    return one - (one - other) * (one > other)


def most(one: Amount, other: Amount) -> Amount:
    """Return the larger of two numbers, or of two arrays place by place."""
    return one + (other - one) * (other > one)
