"""A frozen base that HQQ quantised while it was loaded: LoRA on packed codes.

Effect: linear maps but the head keep codes, scales and zeros instead of a weight; all else stays as it was loaded, also
under PEFT's preparation. Cost: what `formats/hqq.py` stores; every use unpacks one weight by torch's own
operations, three tensors of its size at a time, forward and backward; inputs are kept as long as the graph. Source: hqq
0.2.8, core/quantize.py, HQQLinear with its default backend; PEFT 0.21, tuners/lora/hqq.py.
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
    from oomph.methods.quantised import Base
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


def quantised_linear(block: Linear, stored: Mapping[str, Tensor], job: TrainJob | Base) -> Linear:
    """Return HQQLinear in the place of a linear map; `stored` are its packed tensors."""
    bits = int(job.quantization.split("-")[1].removesuffix("bit"))
    return LinearHqq(
        block.in_features, block.out_features, block.bias, block.role, stored=stored, bits=bits, bias_dtype=rest(job)
    )  # fmt: skip


def rest(job: TrainJob | Base) -> str:
    """Return the dtype of scales, zeros and biases, which a weight is unpacked to: the one the model is loaded in."""
    return job.weight_dtype


@dataclass(frozen=True, eq=False)
class LinearHqq(PackedLinear):
    """A linear map of packed codes."""

    bits: int = 4
    bias_dtype: str = "bf16"

    @property
    def parts(self) -> Parts:
        """Codes, scales, zeros and, if any, bias, which does not train."""
        bias = Tensor((self.out_features,), "buffer", self.bias_dtype, trains=False) if self.bias else None
        return {**self.stored, "bias": bias}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror HQQLinear.forward_pytorch_backprop."""
        from oomph.ops.hqq import HqqWeight, matmul_hqq

        weight = HqqWeight((m.out_features, m.in_features), m.bits, m["W_q"], m["scale"])
        return matmul_hqq(x, weight, m.parts["bias"])
