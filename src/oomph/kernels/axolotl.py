"""axolotl's LoRA kernels: adapters computed with the maps beneath them, of attention and of a gated MLP.

Effect: adapted maps save their input once, in 16 bits, with dropout what it left too, one for all maps of that input;
an activation's product is made again in backward, over the gradient. Cost: none but the package. Flag: --kernels
axolotl, on by default with --framework axolotl. Source: axolotl 0.19, kernels/lora.py; monkeypatch/lora_kernels.py, by
which all three maps of attention, the output map, and all three of an MLP are fused where all have adapters, with
biases too; the others stay PEFT's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Part, Rewritten, rewritten
from oomph.blocks.mlp import GatedMLP
from oomph.errors import UnsupportedError
from oomph.job_words import AXOLOTL_PARTS
from oomph.kernels import liger
from oomph.methods.lora import LoraLinear

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

PATCHED = (
    "arcee", "cohere2", "cwm", "dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "gemma", "gemma2", "gemma3",
    "gemma3_text", "glm", "glm4", "gpt_oss", "granite", "granitemoe", "granitemoeshared", "helium", "hunyuan_v1_dense",
    "hunyuan_v1_moe", "hyperclovax", "llama", "ministral", "ministral3", "mistral", "mistral3", "mixtral", "nemotron",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl", "seed_oss", "smollm3", "solar_open",
    "starcoder2", "vaultgemma",
)  # fmt: skip
# What it patches too, and is not held against its code here.
UNPLAYED = (
    "apertus", "bamba", "exaone_moe", "gemma4", "gemma4_text", "granite_swa", "granitemoe_swa", "granitemoehybrid",
    "hy_v3", "jais2", "jamba", "lfm3", "mellum", "nanochat", "nemotron_h", "phimoe", "qwen3_5", "qwen3_5_moe",
    "step3p7", "zamba",
)  # fmt: skip


APART = "axolotl apart"  # how attention is rewritten where its three maps stay PEFT's
LIGER_BESIDE = ("norm", "glu")
LAYER_NORMED = ("jais2", "starcoder2")
ACTIVATIONS = ("silu", "gelu")  # SUPPORTED_ACTIVATIONS, and whatever has gelu in its name
# What its patches look for: find_self_attn_in_layer, find_mlp_in_layer. Towers, and shared experts, lie elsewhere.
_OF_LAYER = re.compile(r"model\.(language_model\.)?layers\.[^.]+\.(self_attn|mlp)")


OFF = "Say --kernels torch, which is lora_mlp_kernel, lora_qkv_kernel and lora_o_kernel: false."


def stops(model: Model, autocast: bool) -> str:
    """Return why axolotl with these kernels ends with an error for a model, "" if it does not."""
    name = model.model_type or "this model"
    if name not in (*PATCHED, *UNPLAYED):
        return f"axolotl's LoRA kernels do not find their lines in {name}'s attention, and axolotl stops."
    if autocast and name in LAYER_NORMED:
        return (
            f"{name}'s LayerNorms give fp32 under autocast, which axolotl's LoRA kernels cannot add to, and it stops."
        )
    return ""


def with_kernels(model: Model, parts: str = "") -> Model:
    """Return the model, whose adapters are yet to come, with those of Liger's kernels that are asked for beside.

    Liger's rotary embedding is none of them: axolotl has rewritten attention before Liger patches the module. Raises
    UnsupportedError for types that axolotl stops at, and for those not held against its code.
    """
    why = stops(model, autocast=False)
    if why or model.model_type in UNPLAYED:
        raise UnsupportedError(why or f"oomph does not play axolotl's LoRA kernels in {model.model_type} yet.", OFF)
    beside = ",".join(name for name in parts.split(",") if name in LIGER_BESIDE)
    return liger.with_kernels(model, beside) if beside else model


def with_fused_adapters(model: Model, job: TrainJob) -> Model:
    """Return a model with those adapters fused that its patches take; attention first makes all of q, k and v."""

    asked = [name for name in job.kernel_parts.split(",") if name in AXOLOTL_PARTS]
    on = asked or AXOLOTL_PARTS
    together = "axolotl" if "qkv" in on else APART

    def change(path: str, part: Part) -> Part:
        if not _OF_LAYER.fullmatch(path):
            return part
        block = part.block if isinstance(part, Rewritten) else part
        if isinstance(block, Attention):
            return _attention(part, block) if {"qkv", "o"} & {*on} else part
        mlp = _mlp(part) if "mlp" in on else None
        if not isinstance(part, Rewritten):
            return part
        if mlp and all(isinstance(part.members[name], LoraLinear) for name in mlp.names):
            return replace(part, block=replace(mlp, kernel="axolotl"))
        return part

    def _attention(part: Part, block: Attention) -> Part:
        block = replace(block, kernel=together)
        if not isinstance(part, Rewritten):
            return block
        out = part.members[block.out]
        fused = {block.out: _fused(out)} if "o" in on and isinstance(out, LoraLinear) else {}
        return replace(part, block=block, members={**part.members, **fused})

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})


def _mlp(part: Part) -> GatedMLP | None:
    """Return an MLP of three maps; raises UnsupportedError for one that lora_mlp_kernel refuses."""
    block = part.block if isinstance(part, Rewritten) else part
    if not isinstance(block, GatedMLP) or len(block.names) != len(("gate", "up", "down")):
        return None
    if not any(known in block.activation for known in ACTIVATIONS):
        raise UnsupportedError(f"axolotl's lora_mlp_kernel knows silu and gelu, not {block.activation}.", OFF)
    return block


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
