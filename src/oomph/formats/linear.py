"""Formats for linear maps: a scheme says how one matrix is stored, rules say which matrices it is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from oomph.errors import UnsupportedError
from oomph.formats.base import Format, Stored, stored
from oomph.formats.names import Names, module_of
from oomph.tensor import Role, Weight

if TYPE_CHECKING:
    from oomph.model import Model

LINEARS: frozenset[Role] = frozenset({"linear", "expert"})
WITH_CONV1D: frozenset[Role] = LINEARS | {"conv1d"}  # for libraries that know more than nn.Linear
WITH_CONV1D_AND_HEAD: frozenset[Role] = WITH_CONV1D | {"head"}
LINEARS_AND_HEAD: frozenset[Role] = LINEARS | {"head"}
_CONV1D = "GPT-2's Conv1D maps stay as they are: the library converts nn.Linear only."
OUTSIDE_DECODER = frozenset({"vision", "audio", "projector", "mtp"})


def ceil_div(total: int, by: int) -> int:
    """Return total / by, rounded up."""
    return -(-total // by)


@dataclass(frozen=True)
class Matrix:
    """One weight matrix to be stored: `out` rows, `into` columns, `copies` times. `rest` is the model's dtype."""

    module: str
    out: int
    into: int
    copies: int
    rest: str

    def tensor(self, suffix: str, shape: Sequence[int], dtype: str) -> Stored:
        """Return a stored tensor of this module, once for all copies."""
        return stored(f"{self.module}.{suffix}", shape, dtype, self.copies)

    def groups(self, size: int, method: str) -> int:
        """Return how many groups of `size` inputs there are; the loaders of `method` refuse a remainder."""
        if self.into % size:
            raise UnsupportedError(
                f"{method} cannot store {self.module}: its {self.into} inputs are no multiple of {size}.",
                "Choose another group size, or a format without groups.",
            )
        return self.into // size


class Scheme:
    """How one matrix is stored."""

    def tensors(self, m: Matrix) -> Sequence[Stored]:
        """Return the tensors of one matrix."""
        raise NotImplementedError


Rule = tuple["Names | None", "Scheme | None"]  # which modules (None: all), stored how (None: as they are)


@dataclass(frozen=True)
class LinearFormat(Format):
    """Matrices go through `rules`, the first that lists a module decides; everything else stays plain.

    `roles` are the weights that may be quantised at all; `decoder_only` leaves towers, projectors and
    multi-token-prediction layers alone.
    """

    rules: tuple[Rule, ...] = ()
    roles: frozenset[Role] = LINEARS
    decoder_only: bool = False
    remarks: tuple[str, ...] = ()

    def quantises(self, weight: Weight) -> bool:
        """Tell whether this is a matrix that the rules may quantise."""
        if weight.role not in self.roles or len(weight.shape) != 2 or not weight.name.endswith(".weight"):
            return False
        inside = weight.places or weight.role == "head"
        return not self.decoder_only or (bool(inside) and weight.kind not in OUTSIDE_DECODER)

    def matrix(self, weight: Weight) -> Matrix:
        """Return a weight as the matrix its module holds; GPT-2's Conv1D is turned round."""
        out, into = weight.shape[::-1] if weight.role == "conv1d" else weight.shape
        return Matrix(module_of(weight), out, into, weight.copies, self.rest)

    def store(self, weight: Weight, model: Model) -> Sequence[Stored]:
        """Return the tensors of every part of the row, in the order of the rules."""
        return self.by_rules(weight) if self.quantises(weight) else (self.plain(weight),)

    def by_rules(self, weight: Weight) -> Sequence[Stored]:
        """Return what the rules make of a matrix."""
        found: list[Stored] = []
        waiting = [weight]
        for names, scheme in self.rules:
            later: list[Weight] = []
            for part in waiting:
                for listed, row in [(True, part)] if names is None else names.split(part):
                    if not listed:
                        later.append(row)
                    elif scheme is None:
                        found.append(self.plain(row))
                    else:
                        found.extend(scheme.tensors(self.matrix(row)))
            waiting = later
        return (*found, *map(self.plain, waiting))

    def idle(self, model: Model) -> tuple[str, ...]:
        """Return a sentence where no weight of the model is one that this format changes."""
        if any(self.quantises(weight) for weight in model.weights):
            return ()
        return (f"{self.title}: {model.name or 'this model'} has no such weights, so that all stay in {self.rest}.",)

    def notes(self, model: Model) -> tuple[str, ...]:
        """Return the format's remarks, that it changes nothing, or passes by maps that are no nn.Linear."""
        passed_by = "conv1d" not in self.roles and any(weight.role == "conv1d" for weight in model.weights)
        return (*self.remarks, _CONV1D) if passed_by else self.idle(model) or self.remarks


def keep_then(left: Names | None, scheme: Scheme) -> tuple[Rule, ...]:
    """Return the usual rules: the listed modules stay as they are, the scheme takes the rest."""
    return ((left, None), (None, scheme)) if left else ((None, scheme),)
