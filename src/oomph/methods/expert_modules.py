"""Mixtures as transformers 4 built them: what each expert computes are linear maps, which quantisers and adapters know.

Effect: a Python loop over the experts that were hit. Cost: activations of each expert apart; quantised and adapted one
by one. Source: transformers 4.57, models/mixtral/modeling_mixtral.py and those of the types below.
"""

from __future__ import annotations

from dataclasses import fields, replace

from oomph.blocks.base import Part, Stack, rewritten
from oomph.blocks.basic import Linear
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import ExpertModules, MoE
from oomph.errors import UnsupportedError
from oomph.model import Model
from oomph.tape.sizes import settled

PLAYED = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")


def with_expert_modules(model: Model) -> Model:
    """Return a model with a module for each expert; refused for a type whose loop is not known."""
    if model.model_type not in PLAYED:
        raise UnsupportedError(
            f"oomph knows transformers 4's experts of {', '.join(PLAYED)}, not of {model.model_type[:40]}.",
            "Leave out --experts modules.",
        )

    def change(path: str, part: Part) -> Part:
        return _apart(part) if isinstance(part, MoE) else part

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})


def _apart(block: MoE) -> MoE:
    """Return a mixture whose router and experts are linear maps."""
    expert, hidden = block.expert, block.stacked.hidden_size if block.stacked else 0
    if not isinstance(expert, GatedMLP) or block.stacked is None:
        raise AssertionError("these types have gated experts")
    kept = {field.name: getattr(block, field.name) for field in fields(MoE)}
    kept["router"] = Linear(hidden, block.num_experts, kind="moe_router")
    kept["expert"] = expert = replace(expert, activation=block.stacked.activation, role="linear", kind="")
    modules = Stack((expert,) * settled(block.num_experts), settled(block.top_k), kind="moe_experts")
    return ExpertModules(**{**kept, "stacked": None}, modules=modules)
