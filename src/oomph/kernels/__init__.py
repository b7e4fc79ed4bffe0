"""Fused kernels that others put into a transformers model: functions from a Model to a Model that exchange blocks.

A file holds `with_kernels(model, parts)`, which gives blocks another way to be computed where the library patches the
modules of that type, and refuses types that it does not patch; a library that also computes adapters together with the
maps beneath them has `with_fused_adapters(model, job)`. What the kernels allocate is in ops/fused.py. Losses are apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Part, rewritten
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.errors import UnsupportedError

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model

KERNELS: dict[str, str] = {"liger": "liger", "foak": "foak", "unsloth": "unsloth", "axolotl": "axolotl"}


@dataclass(frozen=True)
class Patch:
    """What a library exchanges in a type of model: the kernels of its norms, of its rotary embedding and of its gated
    activation, "" for none. `others` are norms, by the end of their path, that get another kernel or none.
    """

    norm: str = ""
    rotary: str = ""
    mlp: str = ""
    others: tuple[tuple[str, str], ...] = ()


def with_kernels(model: Model, name: str, parts: str = "") -> Model:
    """Return the model with a library's kernels in it, all or those parts of them; `torch` are none."""
    if name == "torch":
        return model
    found: Model = import_module(f"oomph.kernels.{KERNELS[name]}").with_kernels(model, parts)
    return found


def with_fused_adapters(model: Model, job: TrainJob) -> Model:
    """Return a model that has adapters with those computed as a library does it, if the library does."""
    fused = getattr(import_module(f"oomph.kernels.{KERNELS[job.kernels]}"), "with_fused_adapters", None)
    return fused(model, job) if fused else model


def patched(model: Model, library: str, patches: dict[str, Patch]) -> Model:
    """Return the model as a library patches it; raises UnsupportedError for a type that is not in its table."""
    patch = patches.get(model.model_type)
    if patch is None:
        raise UnsupportedError(
            f"oomph cannot play {library}'s kernels in {model.model_type or 'this model'} yet.",
            "Leave --kernels out, or trace the real code: oomph trace.",
        )

    def change(path: str, part: Part) -> Part:
        if isinstance(part, Norm):
            style = next((style for end, style in patch.others if path.endswith(end)), patch.norm)
            return replace(part, style=style) if style else part
        if isinstance(part, GatedMLP):
            return replace(part, kernel=patch.mlp)
        if isinstance(part, Attention):
            norms: dict[str, Any] = {
                field: change(f"{path}.{name}", getattr(part, field))
                for field, name in zip(("q_norm", "k_norm"), part.norms, strict=True)
            }
            return replace(part, rotary=(part.rotary and patch.rotary) or part.rotary, **norms)
        return part

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})
