"""fms-acceleration's kernels: Unsloth's RMSNorm, rotary embedding and adapters, as its foak plugin puts them in.

Effect: a norm keeps its input in its own dtype instead of fp32 copies, and its gradient is written over the incoming
one; adapters of attention beside bitsandbytes' 4-bit maps keep what their dropout left in 16 bits, and no mask. Cost:
scales of norms get no gradient and so never train. Flag: --kernels foak. Source: fms-acceleration-foak 0.7,
kernels/unsloth/rms_layernorm.py, rope_embedding.py, fused_ops/unsloth_lora/bnb, models/<type>.py;
framework_plugin_fast_kernels.py, by which adapters are fused in quantised models alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Part, Rewritten, rewritten
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.errors import UnsupportedError, UsageError
from oomph.job_words import FOUR_BIT
from oomph.kernels import Patch, patched
from oomph.methods.bitsandbytes import Linear4bit
from oomph.methods.lora import LoraLinear
from oomph.methods.targets import freeze, inner

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

BOTH = Patch("foak", "foak")
PATCHES: dict[str, Patch] = {"llama": BOTH, "mistral": BOTH, "granite": BOTH, "gpt_bigcode": Patch()}


def with_kernels(model: Model, parts: str = "") -> Model:
    """Return the model as the plugin patches it; GPT-BigCode has nothing but a loss to patch."""
    model = patched(model, "fms-acceleration", PATCHES)

    def change(path: str, part: Part) -> Part:
        return freeze(part) if isinstance(part, Norm) and part.style == "foak" else part

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})


def with_fused_adapters(model: Model, job: TrainJob) -> Model:
    """Return a model whose attention takes queries, keys and values at once where all three 4-bit maps have adapters.

    Raises UsageError for what its code cannot take (scales that are not quantised, a base that PEFT prepared, no
    autocast) and UnsupportedError for adapters on all of an MLP, which it fuses too.
    """
    if not job.quantization.startswith(FOUR_BIT) or model.model_type == "gpt_bigcode":
        return model
    if not job.quantization.endswith("-dq") or job.kbit_preparation or not job.autocast:
        raise UsageError(
            "fms-acceleration's adapters take 16-bit inputs under autocast and 4-bit maps with quantised scales.",
            f"Say --method lora --quantization {job.quantization.removesuffix('-dq')}-dq --autocast.",
        )

    def change(path: str, part: Part) -> Part:
        if not isinstance(part, Rewritten):
            return part
        if isinstance(part.block, GatedMLP) and all(_four_bit(part.members[name]) for name in part.block.names):
            raise UnsupportedError(
                "oomph does not play fms-acceleration's fused MLP.", "Say --targets q_proj,k_proj,v_proj,o_proj."
            )
        return _attention(part, part.block) if isinstance(part.block, Attention) else part

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})


def _attention(part: Rewritten, block: Attention) -> Block:
    together = all(_four_bit(part.members[name]) for name in block.qkv)
    out = part.members[block.out]
    members = part.members
    if isinstance(out, LoraLinear) and _four_bit(out):
        fused = FoakLoraLinear(out.base, out.in_features, out.out_features, out.rank, out.rate, out.dtype)
        members = {**members, block.out: fused}
    return replace(part, block=replace(block, kernel="foak" if together else ""), members=members)


def _four_bit(part: Part) -> bool:
    return isinstance(part, LoraLinear) and isinstance(inner(part.base), Linear4bit)


@dataclass(frozen=True, eq=False)
class FoakLoraLinear(LoraLinear):
    """An adapter and its 4-bit map as one operation."""

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror apply_lora_o_v2."""
        from oomph import ops

        block: Any = m.block
        return ops.dropped_lora_map(x, block.adapted(m), m.rate)
