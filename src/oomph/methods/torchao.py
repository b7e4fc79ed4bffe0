"""A frozen base that torchao quantised while it was loaded, weight-only in int8 or FP8: LoRA on tensor subclasses.

Effect: linear maps but the head keep a byte for each weight and a scale for each output; all else stays as it was
loaded, also under PEFT's preparation. Cost: what `formats/torchao.py` stores; each use casts a whole weight, which
lives until its backward pass: without checkpointing the whole model in 16 bits. int4 is not trained on: PEFT refuses
Int4Tensor, and tinygemm's product has no backward. Nor are bases whose inputs are quantised too: no gradient passes
their maps. Source: torchao 0.18, quantization/quantize_/workflows; PEFT 0.21, tuners/lora/torchao.py; transformers
5.23, quantizer_torchao.py.
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
    """Return an nn.Linear with a subclass for its weight; `stored` are the tensors in that."""
    return LinearTorchao(
        block.in_features, block.out_features, block.bias, block.role,
        stored=stored, int8=job.quantization == "torchao-int8", loaded=job.weight_dtype,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class LinearTorchao(PackedLinear):
    """A linear map of codes and scales."""

    int8: bool = True
    loaded: str = "bf16"

    @property
    def parts(self) -> Parts:
        """Codes, scales, of int8 zeros, which nothing reads, and, if any, bias, which does not train."""
        bias = Tensor((self.out_features,), "bias", self.loaded, trains=False) if self.bias else None
        return {**self.stored, "bias": bias}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror F.linear of the subclass."""
        from oomph.ops import torchao

        weight = torchao.TorchaoWeight(m["weight.qdata"], m["weight.scale"], m.loaded)
        product = torchao.matmul_int8_torchao if m.int8 else torchao.matmul_fp8_torchao
        return product(x, weight, m.parts["bias"])
