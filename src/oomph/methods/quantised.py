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
from oomph.blocks.dbrx import TallExperts
from oomph.blocks.moe import StackedExperts
from oomph.errors import UnsupportedError
from oomph.formats.base import Stored
from oomph.methods.targets import inner
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob
    from oomph.model import Model

# The file of a format, by the first word of its name.
LIBRARIES = {
    "nf4": "bitsandbytes",
    "fp4": "bitsandbytes",
    "int8": "bitsandbytes",
    "gptq": "gptq",
    "hqq": "hqq",
    "awq": "awq",
    "aqlm": "aqlm",
    "fp8": "fp8",
    "torchao": "torchao",
}
STORED_BEFORE = ("gptq", "awq", "aqlm", "fp8")  # formats of checkpoints, whose experts are quantised too
ROUTER = "moe_router"  # which those leave alone
CODES = ("weight", "qweight", "W_q", "codes", "weight.qdata")


@dataclass(frozen=True, eq=False)
class PackedLinear(Linear):
    """A linear map whose weight another library than bitsandbytes packed; PEFT has an adapter of LoRA's kind for it."""

    stored: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Base:
    """What a library asks of a job whose model only reads and writes.

    `weight_dtype` is the dtype the model is loaded in, `precision` the one a 4-bit map computes in.
    """

    quantization: str
    weight_dtype: str
    precision: str
    gptq_kernel: str
    release: str
    kbit_preparation: bool = False
    quantised_experts: bool = False
    steady: bool = False
    autocast: bool = False


# Whose maps are found by transformers, which leaves the module of the last parameter alone (5.23, quantizers/base.py,
# get_keys_to_not_convert).
LAST = "bitsandbytes"


def base_of(job: InferJob) -> Base:
    """Return how the model of a job without gradients is quantised."""
    computes = "fp32" if job.compute_fp32 else job.precision
    return Base(job.quantization, job.precision, computes, job.gptq_kernel, job.release)


def quantised(model: Model, job: TrainJob | Base) -> Model:
    """Return the model with the blocks of the job's format in the place of the maps that it quantises."""
    from oomph import formats

    model = replace(model, parts={path: as_built(part) for path, part in model.parts.items()})
    library = import_module(f"oomph.methods.{LIBRARIES[job.quantization.partition('-')[0]]}")
    fmt = formats.get(job.quantization)
    if hasattr(library, "rest"):
        fmt = replace(fmt, rest=library.rest(job))
    before = isinstance(job, Base) and job.quantization.startswith(STORED_BEFORE)
    last = [weight.name for weight in model.weights if weight.kind != "mtp"][-1]  # left as it is, see LAST
    left = last if not isinstance(job, Base) and library.__name__.endswith(LAST) else ""
    stored = {  # by shape too, which may differ from layer to layer
        (weight.name.removesuffix(".weight"), weight.shape): fmt.store(weight, model)
        for weight in model.weights
        # Routers that are linear maps are stored as such: the format knows of which types.
        if (fmt.quantises(weight) or weight.role == "router")
        and weight.name != left
        and not (before and weight.kind == ROUTER)
    }

    def change(path: str, part: Part) -> Part:
        block = inner(part)
        if isinstance(block, TallExperts) and (job.quantised_experts or before):
            raise UnsupportedError(
                "oomph cannot play DBRX's experts quantised yet.",
                "Leave --quantised-experts out, or choose another --quantization.",
            )
        if isinstance(block, StackedExperts) and job.quantised_experts:
            stacks: Part = library.quantised_stacks(block, job)
            return stacks
        if isinstance(block, StackedExperts) and before:
            fix = "Say --experts modules, as transformers 4 built them, or choose another --quantization."
            raise UnsupportedError("oomph cannot play stacked experts that were quantised beforehand yet.", fix)
        weight = block.parts["weight"] if isinstance(block, Linear) else None
        kept = stored.get((path, weight.shape), ()) if isinstance(weight, Tensor) else ()
        if not isinstance(block, Linear) or len(kept) < 2:  # one tensor: the weight as it is
            return part
        made: Linear = library.quantised_linear(block, dict(stored_tensor(one, path) for one in kept), job)
        return made

    return replace(model, parts={path: rewritten(part, change, path) for path, part in model.parts.items()})


def stored_tensor(one: Stored, path: str) -> tuple[str, Tensor]:
    """Return what is stored of a weight as a tensor that does not train; codes count as the weight, scales do not."""
    name = one.name.removeprefix(f"{path}.")
    return name, Tensor(one.shape, "linear" if name in CODES else "buffer", one.dtype, trains=False)
