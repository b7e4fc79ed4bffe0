"""axolotl's LoRA kernels: adapters computed with the maps beneath them, of attention and of a gated MLP.

Effect: adapted maps save their input once, in 16 bits, with dropout what it left too, one for all maps of that input;
an activation's product is made again in backward, over the gradient. Cost: none but the package. Flag: --kernels
axolotl, on by default with --framework axolotl. Source: axolotl 0.19, kernels/lora.py; monkeypatch/lora_kernels.py, by
which all three maps of attention, the output map, and all three of an MLP are fused where all have adapters, with
biases too; the others stay PEFT's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Part, Rewritten, rewritten
from oomph.blocks.mlp import GatedMLP
from oomph.errors import UnsupportedError
from oomph.methods.lora import LoraLinear

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

PATCHED = (
    "arcee", "cohere2", "exaone4", "gemma", "gemma2", "gemma3_text", "granite", "llama", "ministral", "mistral",
    "mixtral", "nemotron", "qwen2", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "starcoder2",
)  # fmt: skip


def with_kernels(model: Model) -> Model:
    """Return the model as it is, whose adapters are yet to come; raises UnsupportedError for types not held against
    axolotl's code.
    """
    if model.model_type not in PATCHED:
        raise UnsupportedError(
            f"oomph plays axolotl's LoRA kernels in {', '.join(PATCHED)}, not in {model.model_type or 'others'}.",
            "Say --kernels torch, which is lora_mlp_kernel, lora_qkv_kernel and lora_o_kernel: false.",
        )
    return model


def with_fused_adapters(model: Model, job: TrainJob) -> Model:
    """Return a model with those adapters fused that its patches take; attention first makes all of q, k and v."""

    def change(path: str, part: Part) -> Part:
        if isinstance(part, Attention):
            return replace(part, kernel="axolotl")
        if not isinstance(part, Rewritten):
            return part
        if isinstance(part.block, Attention):
            out = part.members[part.block.out]
            members = {**part.members, part.block.out: _fused(out)} if isinstance(out, LoraLinear) else part.members
            return replace(part, block=replace(part.block, kernel="axolotl"), members=members)
        if isinstance(part.block, GatedMLP) and all(isinstance(part.members[n], LoraLinear) for n in part.block.names):
            return replace(part, block=replace(part.block, kernel="axolotl"))
        return part

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})


def _fused(one: LoraLinear) -> AxolotlLoraLinear:
    return AxolotlLoraLinear(one.base, one.in_features, one.out_features, one.rank, one.rate, one.dtype)


@dataclass(frozen=True, eq=False)
class AxolotlLoraLinear(LoraLinear):
    """An adapter and its map as one operation."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror apply_lora_o."""
        from oomph import ops

        block: Any = m.block
        return ops.adapted_map(x, block.dropped(m, x), block.adapted(m))
