"""Whole modules that train beside adapters: PEFT's modules_to_save, a copy of each next to the frozen original.

Effect: embedding and head, say, train in full. Cost: a copy of their weights, gradients and states. Source: PEFT 0.21,
utils/other.py, ModulesToSaveWrapper.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Module, Part, Rewritten, rewritten
from oomph.errors import UnsupportedError, UsageError
from oomph.methods.targets import freeze, matches, split, typed

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model

ORIGINAL = "original_module"


def saved(model: Model, job: TrainJob) -> Model:
    """Return a model all of whose tensors are frozen with copies that train of the modules a job names."""
    names = split(job.saved_modules)
    found: set[str] = set()

    def change(path: str, part: Part) -> Part:
        if not isinstance(part, Block) or not matches(path, names):
            return part
        found.add(path.rpartition(".")[2])
        members = {name: typed(each, trains=True) for name, each in part.parts.items()}
        if all(each is None for each in members.values()):
            raise UnsupportedError(f"{path} has no weights of its own to train.", "Its table is tied: save that one.")
        block = part.block if isinstance(part, Rewritten) else part
        return Rewritten(block, {**members, ORIGINAL: Module({"frozen": freeze(part)})}, part.kind)

    parts = {path: rewritten(part, change, path) for path, part in model.parts.items()}
    for name in names:
        if name.rpartition(".")[2] not in found:
            raise UsageError(f"The model has no module {name[:80]!r} to save.", "Say wte,lm_head or the like.")
    return replace(model, parts=parts)
