"""Unsloth's own forward pass and kernels: norms, rotary embedding, adapters computed with the maps beneath them.

Effect: adapted maps save their input once and nothing of the adapter; SwiGLU's product is made again in backward;
gradients are written over what was saved. 4-bit weights are dequantised into one buffer, as large as the largest map,
which stays; no masks and no position ids, and rotary tables that stay. Cost: none but the package. Flag: --kernels
unsloth. Source: unsloth 2026.10.9, models/llama.py, models/qwen3.py, kernels/fast_lora.py; which maps are taken
together, patch_peft_model of the first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Part, Rewritten, rewritten
from oomph.blocks.basic import Linear
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.unsloth_attention import UnslothAttention
from oomph.errors import UnsupportedError
from oomph.kernels import Patch, patched
from oomph.methods.lora import LoraLinear, UnslothLoraLinear
from oomph.methods.targets import inner

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model

PROGRAM = "unsloth"  # the type of a model that it has patched: its forward pass is another
BOTH = Patch("unsloth", "unsloth")
PATCHES: dict[str, Patch] = dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), BOTH)


def with_kernels(model: Model, parts: str = "") -> Model:
    """Return the model with Unsloth's norms, its attention and its forward pass; refuses types that have none of these.

    Gemma, Gemma 2, Cohere, Granite and Falcon-H1 have others; all else are transformers' classes, compiled.
    """
    if model.model_type not in PATCHES:
        raise UnsupportedError(
            f"oomph plays Unsloth's own forward pass of {', '.join(PATCHES)}, not of {model.model_type or 'others'}.",
            "Say --kernels torch: transformers' classes under Unsloth's checkpointing and loss, uncompiled.",
        )
    model = patched(model, "Unsloth", PATCHES)
    positions = model.context_length or 0

    def change(path: str, part: Part) -> Part:
        return UnslothAttention.of(part, positions) if isinstance(part, Attention) else part

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})


def with_fused_adapters(model: Model, job: TrainJob) -> Model:
    """Return a model that has adapters with those maps taken together that all have one: no dropout, no bias."""

    def change(path: str, part: Part) -> Part:
        if not isinstance(part, Rewritten):
            return part
        if isinstance(part.block, Attention):
            return _attention(part, part.block)
        if isinstance(part.block, GatedMLP) and all(_plain(part.members[name]) for name in part.block.names):
            return replace(part, block=replace(part.block, kernel="unsloth"))
        return part

    parts = {path: rewritten(part, change, path) for path, part in model.parts.items()}
    return replace(model, parts=parts, model_type=PROGRAM)


def _attention(part: Rewritten, block: Attention) -> Block:
    """Return attention with q, k and v as one operation if all have adapters, and the output map as one."""
    together = all(_plain(part.members[name]) for name in block.qkv)
    out = part.members[block.out]
    members = {**part.members, block.out: _fused(out)} if isinstance(out, LoraLinear) and _plain(out) else part.members
    return replace(part, block=replace(block, kernel="unsloth" if together else ""), members=members)


def _plain(part: Part) -> bool:
    """Tell whether a map has an adapter that Unsloth's operations take."""
    if not isinstance(part, LoraLinear) or part.rate:
        return False
    base = inner(part.base)
    return isinstance(base, Linear) and not base.bias


def _fused(one: LoraLinear) -> UnslothLoraLinear:
    return UnslothLoraLinear(one.base, one.in_features, one.out_features, one.rank, one.rate, one.dtype)
