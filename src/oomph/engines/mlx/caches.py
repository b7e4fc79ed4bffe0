"""What mlx-lm's cache classes hold of a sequence (mlx-lm 0.32.2 models/cache.py and the `make_cache` of its models).

KVCache grows by steps of 256 tokens, RotatingKVCache up to its window, ArraysCache not at all. A class of model either
keeps windows or it does not, whatever its attention masks: Gemma 2 keeps every token, Gemma 3 does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.blocks.cached import Cached, StateCache, TokenCache
from oomph.dtypes import BITS
from oomph.errors import UnsupportedError

STEP = 256  # tokens by which KVCache and QuantizedKVCache grow
MASTER_BYTES = 4  # states that the classes keep in fp32
WORD_BITS = 32
FP32_STATES = frozenset({"mamba2", "gated_delta_net", "kda", "rg_lru"})
# Pieces of a state that the class keeps in the model's dtype.
OWN_STATES = frozenset({"mamba", "short_conv"})


@dataclass(frozen=True)
class Kept:
    """How a cache keeps its elements: of `item` bytes, or from `start` tokens on in `bits` with groups of `group`."""

    item: int
    bits: int | None = None
    group: int = 64
    start: int = 0


def grown(tokens: Any) -> Any:
    """Return the tokens a KVCache has room for; ints or arrays.

    >>> grown(256), grown(257)
    (256, 512)
    """
    return -(-tokens // STEP) * STEP


def sequence_bytes(cached: Cached, kept: Kept, windowed: bool, before: Any, more: Any, reading: bool = False) -> Any:
    """Return the bytes of one layer's cache when `more` tokens have come to those `before`; ints or arrays.

    `reading`: they came in one pass; otherwise one by one.

    Qwen3-4B's 8 heads of 128, 2176 tokens: room for 2304.
    >>> sequence_bytes(TokenCache(8, 128, 128), Kept(2), False, 2047, 129) == 2304 * 8 * 256 * 2
    True
    """
    if isinstance(cached, StateCache):
        return state_bytes(cached, kept.item)
    if cached.kind not in ("attention", "latent"):
        raise UnsupportedError(f"What MLX keeps of {cached.kind} attention is not modelled.", "Choose another engine.")
    tokens = before + more
    index_bytes = grown(tokens) * cached.index_dim * kept.item
    if cached.chunk and windowed:  # ChunkedKVCache: cut to the chunk before a pass, then grown by it
        return _least(grown(tokens), cached.chunk + grown(more)) * cached.per_token * kept.item
    if cached.window and windowed:
        # A pass of many tokens is put behind the window as it is; single tokens make room by steps, then turn it round.
        room = _least(before, cached.window - 1) + more if reading else _least(before + grown(more), cached.window)
        return room * cached.per_token * kept.item
    plain = grown(tokens) * cached.per_token * kept.item
    if kept.bits is None:
        return plain + index_bytes
    quantised = grown(tokens) * _quantised(cached, kept)
    return plain + (quantised - plain) * (tokens >= kept.start) + index_bytes


def _quantised(cached: TokenCache, kept: Kept) -> int:
    """Return the bytes of a token's keys and values as codes, a scale and a bias per group."""
    assert kept.bits is not None
    dims = (cached.key_dim, cached.value_dim)
    for dim in dims:
        if dim % kept.group:
            raise UnsupportedError(
                f"MLX cannot quantise a head of {dim} in groups of {kept.group}.", "Try a smaller one."
            )
    codes = sum(
        dim // (WORD_BITS // kept.bits) * (WORD_BITS // 8) + 2 * (dim // kept.group) * kept.item for dim in dims
    )
    return cached.heads * codes


def state_bytes(state: StateCache, item: int) -> int:
    """Return the bytes of a state: the convolution keeps all but the newest token in the model's dtype.

    Mamba-2 of 8 heads of 64 with 16 states: 3 inputs of 544 channels, and the state in fp32.
    >>> state_bytes(StateCache("mamba2", 544, 4, (8, 64, 16)), 2)
    36032
    """
    convolution = state.conv_channels * max(0, state.conv_kernel - 1) * item
    if not state.state:
        return convolution
    if state.kind not in FP32_STATES | OWN_STATES:
        raise UnsupportedError(f"What MLX keeps of {state.kind} layers is not modelled.", "Choose another engine.")
    return convolution + state.state_elements * (item if state.kind in OWN_STATES else MASTER_BYTES)


def item_bytes(dtype: str) -> int:
    """Return the bytes of an element that is no code."""
    return BITS[dtype] // 8


def _least(one: Any, other: Any) -> Any:
    """Return the smaller of two, ints or arrays of any library."""
    return other + (one - other) * (one < other)
