"""A frozen base that GPTQ quantised beforehand: LoRA on a checkpoint of packed codes.

Effect: linear maps keep codes, zero points and scales instead of a weight; all else stays in 16 bits, which PEFT's
preparation leaves alone here. Cost: what `formats/gptq.py` stores; every use unpacks one weight, which lives through
the layer's backward pass or not, depending on the kernel. Source: GPTQModel 7.7, auto_gptq 0.5 to 0.7,
fms-acceleration's copy of it; PEFT 0.21, tuners/lora/gptq.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Parts
from oomph.blocks.basic import Linear
from oomph.methods.quantised import Base, PackedLinear
from oomph.tape.bound import Bound
from oomph.tape.sizes import yes
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.tape.sym import Sym

BIAS_DTYPE = "fp16"
SHIFTS = 32  # bits of a word; a table of shifts has one int32 for each code in it


def quantised_linear(block: Linear, stored: Mapping[str, Tensor], job: TrainJob | Base) -> Linear:
    """Return the map of the job's kernel in the place of a linear map; `stored` are its packed tensors."""
    bits = int(job.quantization.split("-")[1].removesuffix("bit"))
    # optimum up to 1.19 gave every map of auto_gptq's a bias (gptq/quantizer.py, _replace_by_quant_layers).
    old = job.release == "4.38" if isinstance(job, Base) else job.gptq_kernel == "cuda-old"
    bias = block.bias or (old and job.gptq_kernel != "gptqmodel")
    return LinearGptq(
        block.in_features, block.out_features, bias, block.role, stored=stored, bits=bits, kernel=job.gptq_kernel
    )


@dataclass(frozen=True, eq=False)
class LinearGptq(PackedLinear):
    """A linear map of packed codes, as one of the kernels that train computes it."""

    bits: int = 4
    kernel: str = "gptqmodel"

    @property
    def parts(self) -> Parts:
        """Codes, zero points, scales, groups and, if any, bias, which does not train."""
        bias = Tensor((self.out_features,), "buffer", BIAS_DTYPE, trains=False) if self.bias else None
        return {**self.stored, "bias": bias}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror the QuantLinear of the kernel."""
        from oomph.ops import gptq

        weight = gptq.GptqWeight(m.bits, m["qweight"], m["qzeros"], m["scales"], m["g_idx"])
        return gptq.PRODUCTS[m.kernel](x, weight, m.parts["bias"])


def exllama_rooms(model: Bound) -> list[Sym]:
    """Return what stays on the device where ExLlama's kernel computes: room for the largest map unpacked to fp16, and
    for inputs in another order, of which a checkpoint without act-order needs none.

    Source: auto_gptq 0.7, modeling/_utils.py, autogptq_post_init.
    """
    sizes = [one.in_features * one.out_features for one in _maps(model) if one.kernel == "exllama"]
    if not sizes:
        return []
    largest = sizes[0]
    for size in sizes:
        largest = size if yes(size > largest) else largest
    return [model.tape.empty((1, 1), "fp16", op="temp_state"), model.tape.empty((1, largest), "fp16", op="temp_dq")]


def _maps(model: Bound) -> Iterator[LinearGptq]:
    """Yield the packed maps below."""
    if isinstance(model.block, LinearGptq):
        yield model.block
    for part in model.parts.values():
        if isinstance(part, Bound):
            yield from _maps(part)
