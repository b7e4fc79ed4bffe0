"""Blocks whose weights stand in one place and work in several: Zamba's shared transformer and its adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module, Parts
from oomph.blocks.basic import Linear
from oomph.blocks.cached import Cached
from oomph.blocks.mlp import GatedMLP

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym


@dataclass(frozen=True, eq=False)
class Reused(Block):
    """Another use of `block`, which is stored elsewhere: it works (and caches) here, but holds no weights."""

    block: Block

    @property
    def parts(self) -> Parts:
        """Nothing: the weights are counted where they are stored."""
        return {}

    @property
    def cached(self) -> tuple[Cached, ...]:
        """What the block keeps, once more: it works on other inputs here."""
        return self.block.cached


@dataclass(frozen=True)
class Adapter(Block):
    """A low-rank pair added to a shared map, one per use: (in, rank) then (rank, out)."""

    in_features: int
    rank: int
    out_features: int

    @property
    def parts(self) -> Parts:
        """The two maps, named as in an nn.Sequential."""
        return {"0": Linear(self.in_features, self.rank), "1": Linear(self.rank, self.out_features)}

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror nn.Sequential.forward."""
        x = m["0"](x)
        x = m["1"](x)
        return x

    def at(self, uses: tuple[str, ...]) -> Module:
        """Return the list of adapters, one for each of the uses; other places of the list are empty."""
        return Module(dict.fromkeys(uses, self))


@dataclass(frozen=True)
class AdaptedAttention(Attention):
    """Attention whose query, key and value maps may have an adapter of `rank` for each of its `uses`.

    Uses are numbered in words: no size of a model is one.
    """

    uses: tuple[str, ...] = ()
    rank: int | None = None

    @property
    def parts(self) -> Parts:
        """Those of the attention, and the lists of adapters."""
        if self.rank is None:
            return super().parts
        adapters = Adapter(self.hidden_size, self.rank, self.hidden_size).at(self.uses)
        return {**super().parts, **{f"linear_{name}_adapter_list": adapters for name in ("q", "k", "v")}}


@dataclass(frozen=True)
class AdaptedMLP(GatedMLP):
    """A gated MLP whose fused gate and up map has an adapter of `rank` for each of its `uses`."""

    uses: tuple[str, ...] = ()
    rank: int = 1

    @property
    def parts(self) -> Parts:
        """Those of the MLP, and the list of adapters."""
        adapters = Adapter(self.hidden_size, self.rank, 2 * self.ffn_size).at(self.uses)
        return {**super().parts, "gate_up_proj_adapter_list": adapters}
