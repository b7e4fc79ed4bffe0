"""Manifold-constrained hyper-connections: M residual streams instead of one, mixed before and after a block.

Shape letters: H hidden, M streams. Source: transformers 5.23, models/deepseek_v4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oomph.blocks.base import Block, Parts
from oomph.tensor import Tensor

if TYPE_CHECKING:
    from oomph.tape.bound import Bound
    from oomph.tape.sym import Sym

_SCALES = ("pre", "post", "residual")  # one learned scale for each of the three mixes


@dataclass(frozen=True)
class HyperConnection(Block):
    """The mix around one block: M weights in, M weights out and an M·M map of the residual streams.

    The map is brought to rows and columns that add up to 1 in so many `iterations` (Sinkhorn-Knopp). `kind` is the
    ledger's line of the block it stands around.
    """

    hidden_size: int
    streams: int
    iterations: int = 20
    kind: str = "other"

    @property
    def parts(self) -> Parts:
        """The map from all streams to the mixing weights, its bias and scales."""
        weights = (2 + self.streams) * self.streams
        return {
            "fn": Tensor((weights, self.streams * self.hidden_size), "param"),
            "base": Tensor((weights,), "param"),
            "scale": Tensor((len(_SCALES),), "param"),
        }

    @property
    def built_parts(self) -> Parts:
        """The same in fp32, as the class keeps them."""
        return _in_fp32(self.parts)

    @staticmethod
    def program(m: Bound, hidden_streams: Sym) -> tuple[Sym, Sym, Sym]:
        """Mirror DeepseekV4HyperConnection.forward."""
        from oomph.programs.deepseek_v4 import hyper_connection

        return hyper_connection(m, hidden_streams)


@dataclass(frozen=True)
class HyperHead(Block):
    """The mix of all streams into the one that the final norm reads."""

    hidden_size: int
    streams: int
    kind: str = "other"

    @property
    def parts(self) -> Parts:
        """The map from all streams to one weight each, its bias and scale."""
        return {
            "hc_fn": Tensor((self.streams, self.streams * self.hidden_size), "param"),
            "hc_base": Tensor((self.streams,), "param"),
            "hc_scale": Tensor((1,), "param"),
        }

    @property
    def built_parts(self) -> Parts:
        """The same in fp32, as the class keeps them."""
        return _in_fp32(self.parts)

    @staticmethod
    def program(m: Bound, x: Sym) -> Sym:
        """Mirror DeepseekV4HyperHead.forward."""
        from oomph.programs.deepseek_v4 import hyper_head

        return hyper_head(m, x)


def _in_fp32(parts: Parts) -> Parts:
    """Return tensors in fp32 whatever the model is."""
    return {name: replace(part, dtype="fp32") for name, part in parts.items() if isinstance(part, Tensor)}
