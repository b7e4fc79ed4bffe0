"""LoKr: a frozen map beside another one, whose weight is the Kronecker product of a small and a low-rank matrix.

Effect: a whole matrix [out₁, in₁] and two factors of one [out₂, in₂] train, where out₁·out₂ and in₁·in₂ are the map's
sizes and both pairs as near to each other as can be. Cost: few parameters, but each call makes the whole weight twice,
as large as the map's own, and keeps one of them and its own input for the backward pass. Source: PEFT 0.21,
tuners/lokr/layer.py, Linear, factorization, make_kron; ATen/native/LinearAlgebra.cpp, kron.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Parts
from oomph.methods.loha import LohaLinear, adapted, with_delta
from oomph.tape.sizes import Size, number, yes
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.job import TrainJob
    from oomph.model import Model
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


def adapt(model: Model, job: TrainJob) -> Model:
    """Return the model with LokrLinear blocks in the place of the targeted maps, all else frozen."""
    return adapted(model, job, LokrLinear)


def factorization(dimension: Size) -> tuple[int, int]:
    """Return two factors of a size that are near its root, the smaller one first; the size is part of what was played.

    >>> factorization(128), factorization(127), factorization(4096)
    ((8, 16), (1, 127), (64, 64))
    """
    size = number(dimension)
    yes(dimension == size)
    m, n = 1, size
    while m < n:
        larger = next(one for one in range(m + 1, size + 1) if size % one == 0)
        if larger + size // larger > size + 1:
            break
        m, n = larger, size // larger
    return min(m, n), max(m, n)


@dataclass(frozen=True, eq=False)
class LokrLinear(LohaLinear):
    """A linear map with the two sides of a Kronecker product; the second is whole where the rank is half its size."""

    @property
    def parts(self) -> Parts:
        """The wrapped map, the first side, and the second or its factors."""
        (a, b), (c, d) = factorization(self.out_features), factorization(self.in_features)
        parts = {"base_layer": self.base, "lokr_w1": Tensor((a, c), "param", self.dtype)}
        if yes(self.rank * 2 >= max(b, d)):
            return {**parts, "lokr_w2": Tensor((b, d), "param", self.dtype)}
        return {
            **parts,
            "lokr_w2_a": Tensor((b, self.rank), "param", self.dtype),
            "lokr_w2_b": Tensor((self.rank, d), "param", self.dtype),
        }

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror LoKrLayer.forward."""
        return with_delta(m, x, get_delta_weight)


def get_delta_weight(m: Bound) -> Sym:
    """Mirror LoKrLayer.get_delta_weight."""
    from oomph import ops

    w1 = m.lokr_w1
    w2 = m.lokr_w2 if "lokr_w2" in m.parts else ops.times(m.lokr_w2_a, m.lokr_w2_b)
    weight = make_kron(w1, w2)
    return ops.view(weight, (m.out_features, m.in_features))


def make_kron(w1: Sym, w2: Sym) -> Sym:
    """Mirror make_kron: torch.kron(w1, w2) * scale."""
    from oomph import ops

    (a, c), (b, d) = w1.shape, w2.shape
    product = ops.view(w1, (a, 1, c, 1)) * ops.view(w2, (1, b, 1, d))
    rebuild = ops.view(product, (a * b, c * d))
    del product
    return rebuild * 1.0
