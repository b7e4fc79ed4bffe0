"""A parameter as the model's code declares it (`Tensor`), and the same in its place (`Weight`).

No values, only shapes. A `Weight` stands for all its copies: the q_proj of 32 equal layers is one row whose
name carries a `*` for the layer, so a model of a thousand tensors is a list of twenty-five.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Literal

Role = Literal[
    "linear",  # weight of an nn.Linear (out, in): what quantisers quantise
    "conv1d",  # GPT-2's Conv1D, a Linear stored (in, out)
    "expert",  # one matrix of one expert (out, in)
    "router",  # the gate that picks experts: kept in high precision by everyone
    "embedding",  # a table of vectors (rows, hidden)
    "head",  # the output projection (vocab, hidden)
    "conv",  # a convolution kernel
    "norm",  # scale of a normalisation
    "bias",  # any additive vector
    "param",  # any other bare parameter (A_log, sinks, mixing scalars ...)
    "buffer",  # stored in the checkpoint, not a parameter (router correction bias ...)
    "bias buffer",  # the same, kept in the dtype of the weights (BART's final_logits_bias)
]
BUFFERS = ("buffer", "bias buffer")

# Axis names by role, outermost first, for the ledger. Others print as d0, d1 ...
AXES: dict[str, tuple[str, ...]] = {
    "linear": ("out", "in"),
    "conv1d": ("in", "out"),
    "expert": ("out", "in"),
    "router": ("scores", "in"),
    "embedding": ("rows", "hidden"),
    "head": ("vocab", "hidden"),
    "norm": ("hidden",),
    "bias": ("out",),
}


@dataclass(frozen=True)
class Tensor:
    """One parameter tensor: its shape as stored by the model's class, and its role.

    `dtype` is one of its own, whatever the job's precision is; None is the job's. `trains` is False where a method of
    fine-tuning freezes it.
    """

    shape: tuple[int, ...]
    role: Role
    dtype: str | None = None
    trains: bool = True

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Weight:
    """A parameter tensor in its place in a model, once for all its copies.

    `name` is the dotted path with one `*` per repeated level; `places` holds, for each `*`, the indices it
    stands for (layer numbers, expert numbers). `used`/`of` say how many of the copies one token passes through
    (top-k of E experts); both 1 for everything else.
    """

    name: str
    tensor: Tensor
    kind: str
    places: tuple[tuple[int, ...], ...] = ()
    used: int = 1
    of: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one copy."""
        return self.tensor.shape

    @property
    def role(self) -> Role:
        """What the tensor is for: see `Role`."""
        return self.tensor.role

    @cached_property
    def copies(self) -> int:
        """How many tensors this row stands for."""
        return prod(len(indices) for indices in self.places)

    @cached_property
    def numel(self) -> int:
        """Elements of all copies together."""
        return self.tensor.numel * self.copies

    @property
    def active(self) -> int:
        """Elements one token passes through."""
        return self.numel * self.used // self.of

    @property
    def is_param(self) -> bool:
        """False for buffers, which are stored but not counted as parameters."""
        return self.role not in BUFFERS
