"""Quantised bases: the maps that a format quantises, exchanged for those of the library that computes with them.

A library is one file with `quantised_linear(block, stored, job)`; bitsandbytes also has `quantised_stacks(block, job)`,
and `rest(job)` says in which dtype a library keeps scales, where that is the job's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING

from oomph.blocks.base import Part, as_built, rewritten
from oomph.blocks.basic import Linear
from oomph.blocks.moe import StackedExperts
from oomph.formats.base import Stored
from oomph.methods.targets import inner
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model

# The file of a format, by the first word of its name.
LIBRARIES = {
    "nf4": "bitsandbytes",
    "fp4": "bitsandbytes",
    "int8": "bitsandbytes",
    "gptq": "gptq",
    "hqq": "hqq",
    "awq": "awq",
}
CODES = ("weight", "qweight", "W_q")


@dataclass(frozen=True, eq=False)
class PackedLinear(Linear):
    """A linear map whose weight another library than bitsandbytes packed; PEFT has an adapter of LoRA's kind for it."""

    stored: Mapping[str, Tensor] = field(default_factory=dict)


def quantised(model: Model, job: TrainJob) -> Model:
    """Return the model with the blocks of the job's format in the place of the maps that it quantises."""
    from oomph import formats

    model = replace(model, parts={path: as_built(part) for path, part in model.parts.items()})
    library = import_module(f"oomph.methods.{LIBRARIES[job.quantization.partition('-')[0]]}")
    fmt = formats.get(job.quantization)
    if hasattr(library, "rest"):
        fmt = replace(fmt, rest=library.rest(job))
    stored = {
        weight.name.removesuffix(".weight"): fmt.store(weight, model)
        for weight in model.weights
        if fmt.quantises(weight)
    }

    def change(path: str, part: Part) -> Part:
        block = inner(part)
        if isinstance(block, StackedExperts) and job.quantised_experts:
            stacks: Part = library.quantised_stacks(block, job)
            return stacks
        if not isinstance(block, Linear) or len(stored.get(path, ())) < 2:  # one tensor: the weight as it is
            return part
        made: Linear = library.quantised_linear(block, dict(stored_tensor(one, path) for one in stored[path]), job)
        return made

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})


def stored_tensor(one: Stored, path: str) -> tuple[str, Tensor]:
    """Return what is stored of a weight as a tensor that does not train; codes count as the weight, scales do not."""
    name = one.name.removeprefix(f"{path}.")
    return name, Tensor(one.shape, "linear" if name in CODES else "buffer", one.dtype, trains=False)
