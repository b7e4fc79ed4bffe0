"""The widths of a model that vLLM's forward pass makes tensors of, on one device of a tensor-parallel group.

Maps that read the hidden state are cut by their outputs: a device's part of a feed-forward width is that over the
number of devices. Source: model_executor/layers/linear.py, vocab_parallel_embedding.py, fused_moe/ of vLLM 0.19.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Stack
from oomph.blocks.basic import Linear
from oomph.blocks.latent_attention import LatentAttention
from oomph.blocks.mlp import MLP, GatedMLP
from oomph.blocks.moe import MoE
from oomph.blocks.vision_native import PixtralVision
from oomph.errors import UnsupportedError
from oomph.structure import decoder_stack

if TYPE_CHECKING:
    from oomph.model import Model
    from oomph.tensor import Tensor

VOCAB_PADDING = 64  # DEFAULT_VOCAB_PADDING_SIZE
KEPT = 64  # models whose widths are kept
# Towers of Qwen's kind take images of up to 16384 tokens (max_pixels of their processors over 28 x 28 pixels a token).
NATIVE_TOKENS = 16384
PIXTRAL_SIDE, PIXTRAL_MERGE = 1540, 2  # image_size and spatial_merge_size of Mistral's configs
GEMMA3_TOKENS = 256  # mm_tokens_per_image
LLAMA4_TILES, LLAMA4_MERGED = 16 + 1, 4  # max_patches of its processor and the whole image; pixel_shuffle_ratio 1/2


@dataclass(frozen=True)
class Experts:
    """A mixture on one device: `inner` is what the first product of an expert is wide, `ffn` what enters the second.

    `shared_inner` and `shared_ffn` are those of experts that all tokens pass through, 0 where there are none.
    """

    count: int
    per_token: int
    inner: int
    ffn: int
    shared_inner: int = 0
    shared_ffn: int = 0


@dataclass(frozen=True)
class Tower:
    """What encodes images: patches of `patch_values` numbers, `merged` of them a token, `item_tokens` at most an image.

    `inner` and `ffn` are the widths of its MLP; a token comes out as `out_states` hidden states.
    """

    hidden: int
    inner: int
    ffn: int
    patch_values: int
    merged: int
    item_tokens: int
    out_states: int


@dataclass(frozen=True)
class Shapes:
    """Widths of one device: `into` a mixer (queries, keys, values), `turned` the part that positions are put into
    (0: none), `heads_out` what leaves it; `inner` and `ffn` those of the widest dense MLP (0: none).

    `latent` is (query heads, width of an up-projected key and value of a head); `biased`: some product has a bias.
    """

    hidden: int
    vocab: int
    padded_vocab: int
    table_rows: int
    layers: int
    into: int
    turned: int
    heads_out: int
    inner: int
    ffn: int
    experts: Experts | None
    latent: tuple[int, int] | None
    biased: bool
    generates: bool
    tower: Tower | None


class _Mixer(NamedTuple):
    into: int
    turned: int
    heads_out: int


@lru_cache(maxsize=KEPT)
def shapes(model: Model, tp: int) -> Shapes:
    """Return the widths of a model on one of `tp` devices; raises UnsupportedError for one without decoder layers.

    >>> from oomph import load
    >>> found = shapes(load("llama-3-8b"), 2)
    >>> found.inner, found.ffn, found.heads_out, found.table_rows
    (14336, 7168, 2048, 64128)
    """
    layers = [layer for layer, _ in _layers(model).groups()]
    blocks = [block for layer in layers for block in _outermost(layer)]
    mixers = [found for block in blocks if (found := _mixer(block, model.hidden_size, tp))]
    dense = [_widths(block, tp) for block in blocks if isinstance(block, (GatedMLP, MLP))]
    mixtures = [_experts(block, tp) for block in blocks if isinstance(block, MoE)]
    latent = next((block for block in blocks if isinstance(block, LatentAttention)), None)
    padded = -(-model.vocab_size // VOCAB_PADDING) * VOCAB_PADDING
    inner, ffn = max(dense, default=(0, 0))
    into, turned, heads_out = max(mixers, default=(model.hidden_size,) * len(_Mixer._fields))
    return Shapes(
        hidden=model.hidden_size,
        vocab=model.vocab_size,
        padded_vocab=padded,
        table_rows=-(-padded // tp),
        layers=model.num_layers,
        into=into,
        turned=turned,
        heads_out=heads_out,
        inner=inner,
        ffn=ffn,
        experts=max(mixtures, key=lambda each: each.per_token * max(each.inner, model.hidden_size), default=None),
        latent=(-(-latent.num_heads // tp), latent.qk_nope_head_dim + latent.v_head_dim) if latent else None,
        biased=any(getattr(block, "qkv_bias", False) or getattr(block, "bias", False) for block in blocks),
        generates=model.objective == "causal-lm",
        tower=_tower(model),
    )


def _layers(model: Model) -> Stack:
    """Return the layers that tokens go through: the only ones there are beside towers, wherever they stand."""
    apart = ("vision", "audio", "projector", "mtp")
    stacks = [part for part in model.parts.values() if isinstance(part, Stack) and part.kind not in apart]
    return stacks[0] if len(stacks) == 1 and stacks[0].layers else decoder_stack(model)[1]


def _outermost(part: Block | Tensor | None) -> Iterator[Block]:
    """Yield the blocks of a layer; those inside a mixture or an MLP belong to it."""
    if not isinstance(part, Block):
        return
    yield part
    if isinstance(part, MoE):
        for extra in (part.extra or {}).values():
            if not isinstance(extra, (MLP, GatedMLP)):
                yield from _outermost(extra)
        return
    if isinstance(part, (MLP, GatedMLP)):
        return
    below = [layer for layer, _ in part.groups()] if isinstance(part, Stack) else list(part.parts.values())
    for each in below:
        yield from _outermost(each)


def _widths(block: MLP | GatedMLP, tp: int) -> tuple[int, int]:
    """Return the widths of what an MLP's first product and its activation make, on one device."""
    ffn = -(-block.ffn_size // tp)
    return (2 * ffn if isinstance(block, GatedMLP) else ffn), ffn


def _mixer(block: Block, hidden: int, tp: int) -> _Mixer | None:
    """Return the widths of a block that mixes tokens: what its maps make of the hidden state, what goes back to it."""
    if isinstance(block, (GatedMLP, MLP, MoE, Linear)) or block.kind == "moe_router":
        return None
    maps = [part for part in block.parts.values() if isinstance(part, Linear)]
    back = next((part for part in reversed(maps) if part.out_features == hidden), None)
    if back is None:
        return None
    into = -(-sum(part.out_features for part in maps if part.in_features == hidden and part is not back) // tp)
    turned = into
    if isinstance(block, Attention):
        values = block.num_kv_heads * (block.v_head_dim or block.head_dim) // tp
        turned = into - values if block.rotary else 0
    return _Mixer(into, turned, -(-back.in_features // tp))


def _experts(block: MoE, tp: int) -> Experts:
    stacked, expert = block.stacked, block.expert
    size = stacked.ffn_size if stacked else getattr(expert, "ffn_size", 0)
    gated = stacked.gated if stacked else isinstance(expert, GatedMLP)
    ffn = -(-size // tp)
    shared = [_widths(each, tp) for each in (block.extra or {}).values() if isinstance(each, (MLP, GatedMLP))]
    return Experts(
        block.num_experts,
        block.top_k,
        2 * ffn if gated else ffn,
        ffn,
        sum(w for w, _ in shared),
        sum(f for _, f in shared),
    )


def _tower(model: Model) -> Tower | None:
    """Return the tower that encodes images, None where there is none; others are refused by name."""
    found = [part for part in model.parts.values() if isinstance(part, Block) and part.kind in ("vision", "audio")]
    towers = [part for part in found if hasattr(part, "patch_size")]
    if not found:
        return None
    if not towers:
        raise UnsupportedError(
            f"What vLLM's profile run holds of the encoder of {model.name or model.model_type} is not modelled.",
            "Measure it, or ask for the language model alone.",
        )
    block: Any = towers[0]
    patch = block.patch_size[0] if isinstance(block.patch_size, tuple) else block.patch_size
    values = getattr(block, "num_channels", 3) * getattr(block, "frames", 1) * patch**2  # 3: red, green, blue
    merged, tokens = _image(model.model_type, block, patch)
    ffn = getattr(block, "ffn_size", 0) or block.out_size  # GLM's MLP is as wide as the language model
    inner = 2 * ffn if getattr(block, "gated", False) else ffn
    return Tower(block.hidden_size, inner, ffn, values, merged, tokens, 1 + getattr(block, "num_deep", 0))


def _image(model_type: str, block: Any, patch: int) -> tuple[int, int]:
    """Return how many patches are one token, and how many tokens the largest image has."""
    if isinstance(block, PixtralVision):
        merge = PIXTRAL_MERGE if model_type == "mistral3" else 1
        return merge**2, (PIXTRAL_SIDE // (patch * merge)) ** 2
    if model_type == "llama4":
        return LLAMA4_MERGED, LLAMA4_TILES * (block.image_size // patch) ** 2 // LLAMA4_MERGED
    if hasattr(block, "merge") or not hasattr(block, "image_size"):
        return getattr(block, "merge", PIXTRAL_MERGE) ** 2, NATIVE_TOKENS
    patches = (block.image_size // patch) ** 2
    tokens = GEMMA3_TOKENS if model_type == "gemma3" else patches
    return patches // tokens, tokens
