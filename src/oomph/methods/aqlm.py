"""A frozen base that AQLM quantised beforehand: LoRA on a checkpoint of codes and codebooks.

Effect: maps inside the layers keep codes, codebooks and scales instead of a weight; all else stays as it was loaded,
also under PEFT's preparation. Cost: what `formats/aqlm.py` stores; inputs are kept as long as the graph, each use
unpacks a whole weight, and every product is copied once. Source: aqlm 1.1.7, inference.py, QuantizedLinear; PEFT 0.21,
tuners/lora/aqlm.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Parts
from oomph.blocks.basic import Linear
from oomph.errors import UnsupportedError, UsageError
from oomph.methods.quantised import PackedLinear
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.methods.quantised import Base
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


def quantised_linear(block: Linear, stored: Mapping[str, Tensor], job: TrainJob | Base) -> Linear:
    """Return QuantizedLinear in the place of a linear map; `stored` are its tensors."""
    if job.precision not in ("bf16", "fp16"):
        raise UsageError("AQLM's kernels compute in 16 bits.", "Take precision bf16 or fp16.")
    if block.bias:
        fix = "Choose another --quantization."
        raise UnsupportedError("AQLM's backward adds a map's bias to gradients of its input, which fails.", fix)
    return LinearAqlm(block.in_features, block.out_features, block.bias, block.role, stored=stored)


def rest(job: TrainJob | Base) -> str:
    """Return the dtype of codebooks and scales: the one the model is loaded in."""
    return job.weight_dtype


@dataclass(frozen=True, eq=False)
class LinearAqlm(PackedLinear):
    """A linear map of codes and codebooks."""

    @property
    def parts(self) -> Parts:
        """Codebooks, codes and scales."""
        return {**self.stored, "bias": None}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror QuantizedLinear.forward."""
        from oomph.ops.aqlm import AqlmWeight, matmul_aqlm

        return matmul_aqlm(x, AqlmWeight(m["codebooks"], m["codes"], m["scales"]))
