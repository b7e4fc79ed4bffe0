"""The operations of a decoder layer in MLX, as far as memory goes: which arrays each reads, and what it makes.

In the order in which mlx-lm's classes state them. Norms, activations and sums write over an array that nothing else
reads (`is_donatable` in MLX); views take nothing. Sizes are in elements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module, descend, walk
from oomph.blocks.cached import TokenCache
from oomph.blocks.latent_attention import LatentAttention
from oomph.blocks.moe import MoE
from oomph.blocks.shared_kv import KeyAsValueAttention, SharedKVAttention
from oomph.engines.mlx.caches import grown

if TYPE_CHECKING:
    from oomph.formats.base import Format
    from oomph.model import Model

FUSED_HEADS = frozenset({64, 72, 80, 96, 128})  # mlx 0.32 scaled_dot_product_attention.cpp: without scores in memory
FEW_ROWS = 8  # up to so many queries every head has a kernel of its own
ATTENTION = (Attention, KeyAsValueAttention)
MATRICES = frozenset({"linear", "conv1d", "expert", "router"})


class Op(NamedTuple):
    """One kernel: it reads arrays and makes one of `elements`, 0 over the first that it reads.

    `weights` are the elements of parameters it reads too; `kept`: the array is a cache's, counted elsewhere; `runs`:
    False for an array that is there already.
    """

    reads: tuple[str, ...]
    makes: str
    elements: int = 0
    weights: int = 0
    kept: bool = False
    runs: bool = True


class Map(NamedTuple):
    """A matrix of a block: outputs, inputs, the elements it is stored in (of all experts), for how many of a token."""

    name: str
    out: int
    into: int
    elements: int
    per_token: int = 1
    expert: bool = False


class Pass(NamedTuple):
    """What goes through the layers at once: tokens of each of `sequences`, after `before` others. `scores`: attention
    holds a score for every pair of tokens. `windowed`: windows are kept as such. `logits`: of every token."""

    tokens: int
    before: int
    sequences: int = 1
    scores: bool = False
    windowed: bool = False
    logits: bool = False

    @property
    def rows(self) -> int:
        """Rows of an activation."""
        return self.tokens * self.sequences

    def room(self, window: int | None) -> tuple[int, int]:
        """Return the tokens an old cache has room for, and the new one."""
        if window and self.windowed:
            old = min(self.before, window - 1)
            return min(self.before, window - 1 + self.tokens), old + self.tokens
        return grown(self.before), grown(self.before + self.tokens)


def layer_operations(maps: Sequence[tuple[Block, tuple[Map, ...]]], hidden: int, at: Pass) -> list[Op]:
    """Return the operations of a layer: norm, block and sum for each of its blocks."""
    found: list[Op] = []
    for block, matrices in maps:
        found.append(Op(("x",), "n", at.rows * hidden))
        if isinstance(block, ATTENTION):
            found += _attention(block, matrices, at)
        elif isinstance(block, SharedKVAttention):
            found += _shared(block, matrices, at)
        elif isinstance(block, LatentAttention):
            found += _latent(block, matrices, at)
        elif any(each.expert for each in matrices):
            found += _mixture(matrices, hidden, at)
        else:
            found += _gated(matrices, hidden, at.rows, "n", "y")
        found.append(Op(("y", "x"), "x"))
    return found


def block_maps(layer: Block, fmt: Format, model: Model) -> tuple[tuple[Block, tuple[Map, ...]], ...]:
    """Return the blocks of a decoder layer that have matrices, with these."""
    found = []
    for name, part in layer.parts.items():
        if isinstance(part, Block):
            matrices = tuple(_maps(part, name, fmt, model))
            if matrices:
                found.append((_core(part), matrices))
    return tuple(found)


def _core(part: Block) -> Block:
    """Return the attention inside a block that wraps it, else the block."""
    kinds = (*ATTENTION, SharedKVAttention, LatentAttention)
    inside = (each for each in descend({"": part}) if isinstance(each, kinds))
    return next(inside, part)


def _maps(block: Block, name: str, fmt: Format, model: Model) -> Iterator[Map]:
    top_k = next((each.top_k for each in descend({"": block}) if isinstance(each, MoE)), 1)
    for weight in walk(Module({name: block})):
        if weight.role not in MATRICES or len(weight.shape) != 2:
            continue
        out, into = weight.shape[::-1] if weight.role == "conv1d" else weight.shape
        stored = sum(one.copies * _elements(one.shape) for one in fmt.store(weight, model))
        expert = weight.role == "expert"
        yield Map(weight.name, out, into, stored, top_k if expert else 1, expert)


def _elements(shape: Sequence[int]) -> int:
    found = 1
    for size in shape:
        found *= size
    return found


def _caches(names: Sequence[str], sizes: Sequence[int], cache: TokenCache, at: Pass) -> Iterator[Op]:
    """Yield how each of two arrays is put behind what a cache holds: room is made, then it is written."""
    old, new = at.room(cache.window)
    for name, size in zip(names, sizes, strict=True):
        if not size:
            continue
        kept, room = f"cache {name}", new * size * at.sequences
        windowed = cache.window and at.windowed
        if old and (windowed or old < new):
            yield Op((), f"old {name}", old * size * at.sequences, runs=False)
        if windowed:
            yield Op((f"old {name}", name) if old else (name,), kept, room, kept=True)
        elif 0 < old < new:
            yield Op((), f"room {name}", (new - old) * size * at.sequences)
            yield Op((f"old {name}", f"room {name}"), kept, room, kept=True)
            yield Op((kept, name), kept)
        else:
            yield Op((name,), kept, room, kept=True)


def _attention(block: Attention | KeyAsValueAttention, maps: Sequence[Map], at: Pass) -> Iterator[Op]:
    *inner, out = maps
    heads, width = block.num_heads, block.num_heads * block.head_dim
    (cache,) = block.cached
    assert isinstance(cache, TokenCache)
    for each in inner:
        yield Op(("n",), each.name, at.rows * each.out, each.elements)
    # One fused map is cut by views; a map of keys may be that of values too.
    names = [each.name for each in inner[:3]]
    names += names[-1:] * (3 - len(names))
    queries, keys, values = names
    yield Op((queries,), "turned q", at.rows * width)
    yield Op((keys,), "turned k", at.rows * cache.heads * cache.key_dim)
    sizes = (cache.heads * cache.key_dim, cache.heads * cache.value_dim)
    yield from _caches(("turned k", values), sizes, cache, at)
    attended = at.rows * heads * cache.value_dim
    softcap = isinstance(block, Attention) and block.softcap
    if at.scores or softcap or _unfused(block.head_dim, at):
        yield Op(("turned q", "cache turned k"), "scores", at.rows * heads * at.room(cache.window)[1])
        yield Op(("scores",), "scores")
        yield Op(("scores", f"cache {values}"), "attended", attended)
    else:
        yield Op(("turned q", "cache turned k", f"cache {values}"), "attended", attended)
    yield Op(("attended",), "y", at.rows * out.out, out.elements)


def _unfused(head_dim: int, at: Pass) -> bool:
    """Tell whether attention makes scores in memory."""
    return head_dim not in FUSED_HEADS and at.tokens > FEW_ROWS


def _shared(block: SharedKVAttention, maps: Sequence[Map], at: Pass) -> Iterator[Op]:
    """Yield attention on the keys and values of another layer, which are cached there."""
    queries, out = maps
    width = at.rows * queries.out
    yield Op(("n",), "q", width, queries.elements)
    yield Op(("q",), "turned q", width)
    if _unfused(block.head_dim, at):
        yield Op(("turned q",), "scores", at.rows * block.num_heads * (at.before + at.tokens))
        yield Op(("scores",), "attended", width)
    else:
        yield Op(("turned q",), "attended", width)
    yield Op(("attended",), "y", at.rows * out.out, out.elements)


def _latent(block: LatentAttention, maps: Sequence[Map], at: Pass) -> Iterator[Op]:
    """Yield latent attention: keys and values of all tokens are unfolded from the latents in every pass of many."""
    by_name = {each.name.rsplit(".", 2)[-2]: each for each in maps}
    heads, keys = block.num_heads, (at.before + at.tokens) * at.sequences
    source = "n"
    for name in ("q_proj", "q_a_proj", "q_b_proj"):
        if name in by_name:
            yield Op((source,), name, at.rows * by_name[name].out, by_name[name].elements)
            source = name
    latent, out, both = by_name["kv_a_proj_with_mqa"], by_name["o_proj"], by_name["kv_b_proj"]
    yield Op(("n",), "latent", at.rows * latent.out, latent.elements)
    (cache,) = block.cached
    assert isinstance(cache, TokenCache)
    yield from _caches(("latent",), (cache.key_dim,), cache, at)
    yield Op((source,), "position q", at.rows * heads * block.qk_rope_head_dim)
    yield Op(("position q", "cache latent"), "scores", at.rows * heads * (at.before + at.tokens))
    if at.tokens > 1:
        yield Op(("cache latent",), "keys", keys * heads * block.qk_nope_head_dim, both.elements // 2)
        yield Op(("cache latent",), "values", keys * heads * block.v_head_dim, both.elements // 2)
        yield Op((source, "keys", "values", "scores"), "attended", at.rows * heads * block.v_head_dim)
    else:
        yield Op((source,), "folded", at.rows * heads * block.kv_lora_rank, both.elements // 2)
        yield Op(("folded", "cache latent", "scores"), "attended", at.rows * heads * block.kv_lora_rank)
        yield Op(("attended",), "unfolded", at.rows * heads * block.v_head_dim, both.elements // 2)
    read = "attended" if at.tokens > 1 else "unfolded"
    yield Op((read,), "y", at.rows * out.out, out.elements)


def _gated(maps: Sequence[Map], hidden: int, rows: int, source: str, makes: str) -> Iterator[Op]:
    """Yield maps from the hidden state, their product over the first, and the map back; of other mixers as well."""
    inner = [each for each in maps if each.into == hidden] or list(maps[:1])
    outer = [each for each in maps if each not in inner]
    for each in inner:
        yield Op((source,), each.name, rows * each.out * each.per_token, each.elements)
    last = inner[0].name
    if len(inner) > 1:
        yield Op(tuple(each.name for each in inner), last)
    for each in outer:
        yield Op((last,), f"{each.name} out", rows * each.out * each.per_token, each.elements)
        last = f"{each.name} out"
    yield Op((last,), makes)


def _mixture(maps: Sequence[Map], hidden: int, at: Pass) -> Iterator[Op]:
    """Yield a mixture of experts: rows sorted by expert, mapped, put back in order, weighted and summed."""
    experts = [each for each in maps if each.expert]
    beside = [each for each in maps if not each.expert and each.into != 1]
    routers = [each for each in beside if each.into == hidden and "shared" not in each.name][:1]
    shared = [each for each in beside if each not in routers and each.out != 1]
    for each in routers:
        yield Op(("n",), "chosen", at.rows * each.out, each.elements)
        yield Op(("chosen",), "chosen")
    spread = at.rows * experts[0].per_token
    yield Op(("n",), "sorted", spread * experts[0].into)
    yield from _gated(experts, experts[0].into, at.rows, "sorted", "by expert")
    yield Op(("by expert",), "in order", spread * hidden)
    yield Op(("in order",), "in order")
    yield Op(("in order",), "y", at.rows * hidden)
    if shared:
        yield from _gated(shared, hidden, at.rows, "n", "shared")
        yield Op(("y", "shared"), "y")
