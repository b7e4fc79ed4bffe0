"""Norms on queries or keys with a scale of their own for every head, where one scale for all heads is usual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Parts, Stack
from oomph.blocks.basic import Norm
from oomph.tape.sizes import number
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True)
class StackedHeadNorm(Block):
    """The scales of all heads in one tensor (heads, head dim), as Cohere stores them."""

    num_heads: int
    head_dim: int
    kind: str = "norm"

    @property
    def parts(self) -> Parts:
        """The scales."""
        return {"weight": Tensor((self.num_heads, self.head_dim), "norm")}

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Sym:
        """Mirror CohereLayerNorm.forward."""
        from oomph.blocks.norms import layer_written_out

        return layer_written_out(m, hidden_states)


@dataclass(frozen=True)
class ListedHeadNorm(Block):
    """One norm (head dim) for each head, as StableLM stores them."""

    num_heads: int
    head_dim: int
    kind: str = "norm"

    @property
    def parts(self) -> Parts:
        """The list of norms."""
        return {"norms": Stack((Norm(self.head_dim, style="layer"),) * number(self.num_heads))}

    @staticmethod
    def program(m: Bound, hidden_states: Sym) -> Sym:
        """Mirror StableLmLayerNormPerHead.forward: heads [B, N, S, D] split, normed one by one, put together."""
        from oomph import ops

        states_per_heads = ops.split_heads(hidden_states)
        return ops.cat([norm(states) for norm, states in zip(m.norms, states_per_heads, strict=True)], 1)
