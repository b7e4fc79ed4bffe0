"""DBRX's experts as its class keeps them: three tall matrices, in which those of all experts stand one below the other.

Shape letters: H hidden, F expert ffn, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Parts
from oomph.blocks.moe import MoE
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class TallExperts(Block):
    """Gate w1, up v1 and down w2, each (E·F, H).

    >>> TallExperts(8, 16, 4).parts["w2"].shape
    (64, 8)
    """

    hidden_size: int
    ffn_size: int
    num_experts: int
    activation: str = "silu"

    @property
    def parts(self) -> Parts:
        """The three matrices."""
        shape = (self.num_experts * self.ffn_size, self.hidden_size)
        return {name: Tensor(shape, "expert") for name in ("w1", "v1", "w2")}

    @staticmethod
    def program(m: Bound, hidden_states: Sym, top_k_index: Sym, top_k_weights: Sym) -> Sym:
        """Mirror DbrxExperts.forward."""
        from oomph.programs.dbrx import experts

        return experts(m, hidden_states, top_k_index, top_k_weights)


@dataclass(frozen=True, eq=False)
class TallMoE(MoE):
    """A mixture whose experts the class keeps as `tall` ones."""

    tall: TallExperts | None = None

    @property
    def built_parts(self) -> Parts:
        """Router, and the experts as the class keeps them."""
        return {self.router_name: self.router, self.experts_name: self.tall}

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Sym:
        """Mirror DbrxFFN.forward."""
        from oomph.programs.dbrx import ffn

        return ffn(m, hidden_states)
