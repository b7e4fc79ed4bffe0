"""A frozen base that AWQ quantised beforehand: LoRA on a checkpoint of packed codes, as AutoAWQ computes with it.

Effect: maps inside the layers keep codes, zeros and scales instead of a weight; all else stays in 16 bits unless PEFT's
preparation casts it. Cost: what `formats/awq.py` stores; inputs are kept in fp16 as long as the graph, and backward
makes a whole weight for each sequence of the batch. Source: AutoAWQ 0.2.9, modules/linear/gemm.py; PEFT 0.21,
tuners/lora/awq.py. GPTQModel, which computes with AWQ's codes in transformers 5, is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Parts
from oomph.blocks.basic import Linear
from oomph.errors import UsageError
from oomph.methods.quantised import PackedLinear
from oomph.ops.awq import DTYPE
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.methods.quantised import Base
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


def quantised_linear(block: Linear, stored: Mapping[str, Tensor], job: TrainJob | Base) -> Linear:
    """Return WQLinear_GEMM in the place of a linear map; `stored` are its packed tensors."""
    if job.precision == "amp-bf16" or (job.autocast and job.precision == "bf16"):
        raise UsageError("AutoAWQ computes in fp16, which autocast to bf16 casts.", "Take fp16, or no autocast.")
    return LinearAwq(block.in_features, block.out_features, block.bias, block.role, stored=stored)


@dataclass(frozen=True, eq=False)
class LinearAwq(PackedLinear):
    """A linear map of packed codes."""

    @property
    def parts(self) -> Parts:
        """Codes, zeros, scales and, if any, bias, which does not train."""
        bias = Tensor((self.out_features,), "buffer", DTYPE, trains=False) if self.bias else None
        return {**self.stored, "bias": bias}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror WQLinear_GEMM.forward."""
        from oomph.ops.awq import AwqWeight, matmul_awq

        return matmul_awq(x, AwqWeight(m["qweight"], m["qzeros"], m["scales"]), m.parts["bias"])
