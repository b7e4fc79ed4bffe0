"""A model whose linear maps are stored in 8-bit floating point, as in Qwen's and DeepSeek's FP8 files.

Effect: maps keep codes of a byte and a scale for each block; what comes in is quantised for each product. Cost: what
`formats/fp8.py` stores; activations in a byte, with a scale for each 128, beside each product. Source: transformers
4.51 and 5.23, integrations/finegrained_fp8.py, FP8Linear.
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
    """Return FP8Linear in the place of a linear map; `stored` are its codes and scales."""
    return LinearFp8(block.in_features, block.out_features, block.bias, block.role, stored=stored)


@dataclass(frozen=True, eq=False)
class LinearFp8(PackedLinear):
    """A linear map of codes with scales; the bias stays in the dtype the model is loaded in."""

    @property
    def parts(self) -> Parts:
        """Codes, scales and, if any, bias."""
        return {**self.stored, "bias": Tensor((self.out_features,), "bias", trains=False) if self.bias else None}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror FP8Linear.forward."""
        from oomph.ops.fp8 import Fp8Weight, matmul_fp8

        return matmul_fp8(x, Fp8Weight(m["weight"], m["weight_scale_inv"]), m.parts["bias"])
