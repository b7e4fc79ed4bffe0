"""A step of a structure with its sizes left open: what is allocated and freed, in order, for any numbers and depth.

A recipe knows classes of tensors (equal but for the layer they stand in), and for each stretch of the step how many of
which class come and go between one height and the next. Heights are where memory can be most: an allocation followed
by a free. Counts are `a + b·extra`, where `extra` is how often the repeating layers repeat beyond those that were
played. Numbers are put in last: ints for one job, arrays for many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from oomph.stream import ROUND
from oomph.tape.sizes import COMPARE, COMPUTE

DIVISIONS = frozenset({"//", "%"})
Numbers: TypeAlias = Any  # int, or an array of one int64 per job
# An int stands for itself, a tuple of one int for the product of that index.
Term: TypeAlias = "int | tuple[int]"


class Class(NamedTuple):
    """Tensors that are equal but for their layer: `scope` has a * for it. `why` is "" for a temporary.

    What was played of them are `times` as many.
    """

    n_bytes: Term
    op: str
    shape: tuple[Term, ...]
    dtype: str
    scope: str
    why: str
    times: Term = 1


class Change(NamedTuple):
    """How many tensors of a class come (or go, if negative) on the way to a height: `number + growth·extra`."""

    kind: int
    number: int
    growth: int


Delta: TypeAlias = "tuple[Change, ...]"


class Part(NamedTuple):
    """A stretch: `deltas` lead from height to height, the last one to its end.

    `work` is its name; of a decoder layer's what the layer does, with `layer`, its number where it was played, to which
    `extra` periods are added if it is `shifted`. A `repeated` part stands for 1 + extra ones in a row.
    """

    work: str
    layer: int | None
    shifted: bool
    repeated: bool
    deltas: tuple[Delta, ...]


@dataclass(frozen=True)
class Recipe:
    """A step. `depth` layers were played of `layers`, `period` of them repeat (all were played if `period` is 0).

    Atoms are axes ("axis", its number, 0) or computed from atoms before them. `guards` are the comparisons that must
    come out the same for numbers to be put in.
    """

    atoms: tuple[tuple[str, Term, Term], ...]
    products: tuple[tuple[int, tuple[int, ...]], ...]
    guards: tuple[tuple[str, Term, Term, bool], ...]
    classes: tuple[Class, ...]
    parts: tuple[Part, ...]
    layers: Term
    depth: int
    period: int


class Sums:
    """The products of a recipe for given numbers of its axes.

    Numbers that are too few or make a divisor 0 cannot be put in: the guards do not hold, the products mean nothing.
    """

    def __init__(self, recipe: Recipe, axes: Sequence[Numbers]) -> None:
        self.recipe = recipe
        self.possible: Numbers = len(axes) >= sum(how == "axis" for how, _, _ in recipe.atoms)
        self.atoms: list[Numbers] = []
        for how, left, right in recipe.atoms:
            if how == "axis":
                self.atoms.append(axes[left] if self.possible is not False else 1)  # type: ignore[index]
            else:
                self.atoms.append(self._computed(how, self._early(left), self._early(right)))
        self.products = [self._product(factor, atoms) for factor, atoms in recipe.products]

    def _computed(self, how: str, left: Numbers, right: Numbers) -> Numbers:
        if how in DIVISIONS:
            self.possible = self.possible & (right != 0)
            right = right + (right == 0)  # by 1 instead
        return COMPUTE[how](left, right)

    def _product(self, factor: int, atoms: tuple[int, ...]) -> Numbers:
        total: Numbers = factor
        for atom in atoms:
            total = total * self.atoms[atom]
        return total

    def _early(self, term: Term) -> Numbers:
        return term if isinstance(term, int) else self._product(*self.recipe.products[term[0]])

    def number(self, term: Term) -> Numbers:
        """Return the number of a term."""
        return term if isinstance(term, int) else self.products[term[0]]

    def hold(self) -> Numbers:
        """Tell whether all guards come out as when the step was played: a bool, or one per job."""
        answer = self.possible
        if answer is False:
            return False
        for how, left, right, expected in self.recipe.guards:
            found = COMPARE[how](self.number(left), self.number(right)) == expected
            if found is False:
                return False
            answer = answer & found
        return answer

    def class_bytes(self) -> list[Numbers]:
        """Return the bytes of what was played of each class, tensors rounded as torch's allocator does."""
        return [-(-self.number(one.n_bytes) // ROUND) * ROUND * self.number(one.times) for one in self.recipe.classes]


@dataclass(frozen=True)
class Stretch:
    """A stretch with numbers: `repeats` equal ones in a row, each starting `end - start` bytes above the one before.

    `start`, `tops` and `end` are bytes alive in the first one.
    """

    name: str
    repeats: Numbers
    start: Numbers
    tops: tuple[Numbers, ...]
    end: Numbers

    @property
    def rise(self) -> Numbers:
        """How much higher the last repetition begins than the first."""
        return (self.end - self.start) * (self.repeats - 1)

    @property
    def peak(self) -> Numbers:
        """The most bytes alive in any repetition."""
        best = highest((self.start, *self.tops))
        return highest((best, best + self.rise))

    @property
    def last_end(self) -> Numbers:
        """Bytes alive after the last repetition."""
        return self.end + self.rise


def highest(values: Sequence[Numbers]) -> Numbers:
    """Return the largest of several numbers, job by job."""
    if all(isinstance(value, int) for value in values):
        return max(values)
    import numpy as np

    best = values[0]
    for value in values[1:]:
        best = np.maximum(best, value)
    return best


def stretches(recipe: Recipe, sizes: Sequence[Numbers], extra: Numbers) -> list[Stretch]:
    """Return the stretches of a step, `sizes` being the bytes of one tensor of each class.

    Sizes of 0 for some classes give the heights of the others alone.
    """
    found: list[Stretch] = []
    live: Numbers = 0
    for part in recipe.parts:
        start, heights = live, []
        for delta in part.deltas:
            for kind, number, growth in delta:
                live = live + sizes[kind] * (number + growth * extra if growth else number)
            heights.append(live)
        repeats = 1 + extra if part.repeated else 1
        found.append(Stretch(name_of(part, recipe.period, extra), repeats, start, tuple(heights[:-1]), live))
        live = found[-1].last_end
    return found


def name_of(part: Part, period: int, extra: Numbers) -> str:
    """Return what to call a stretch: "layer 0 forward", "layers 78 to 1 backward", "loss backward"."""
    if part.layer is None or not isinstance(extra, int):
        return part.work
    moved = part.layer + (extra * period if part.shifted else 0)
    if not part.repeated:
        return f"layer {moved} {part.work}"
    down = part.shifted  # a backward pass goes from the last layer to the first
    last = part.layer - period + 1 if down else part.layer + period * (1 + extra) - 1
    return f"layers {moved} to {last} {part.work}" if last != moved else f"layer {moved} {part.work}"


def alive(recipe: Recipe, extra: int, at: int, top: int, repetition: int = 0) -> list[int]:
    """Return how many tensors of each class are alive at a height.

    It is the `top`-th height (-1: the start) of the part `at`, in its `repetition`-th repetition.
    """
    counts = [0] * len(recipe.classes)

    def follow(part: Part, deltas: Sequence[Delta], times: int = 1) -> None:
        for delta in deltas:
            for kind, number, growth in delta:
                counts[kind] += (number + growth * extra) * times

    for part in recipe.parts[:at]:
        follow(part, part.deltas, 1 + extra if part.repeated else 1)
    part = recipe.parts[at]
    follow(part, part.deltas, repetition)
    follow(part, part.deltas[: top + 1])
    return counts
