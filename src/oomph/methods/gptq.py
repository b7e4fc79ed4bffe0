"""A frozen base that GPTQ quantised beforehand: LoRA on a checkpoint of packed codes.

Effect: linear maps keep codes, zero points and scales instead of a weight; all else stays in 16 bits, which PEFT's
preparation leaves alone here. Cost: what `formats/gptq.py` stores; every use unpacks one weight, which lives through
the layer's backward pass or not, depending on the kernel. Source: GPTQModel 7.7, auto_gptq 0.5 to 0.7,
fms-acceleration's copy of it; PEFT 0.21, tuners/lora/gptq.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Parts
from oomph.blocks.basic import Linear
from oomph.methods.quantised import PackedLinear
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

BIAS_DTYPE = "fp16"
SHIFTS = 32  # bits of a word; a table of shifts has one int32 for each code in it


def quantised_linear(block: Linear, stored: Mapping[str, Tensor], job: TrainJob) -> Linear:
    """Return the map of the job's kernel in the place of a linear map; `stored` are its packed tensors."""
    bits = int(job.quantization.split("-")[1].removesuffix("bit"))
    # optimum up to 1.2x gave every map of auto_gptq's a bias.
    bias = block.bias or job.gptq_kernel == "cuda-old"
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
