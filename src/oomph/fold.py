"""From played steps to a recipe: equal layers do equal things, so a few of them say what all will do.

A step is played with a period of layers between the first and the last, and with a period more, which tells first,
repeated and last layers apart. A period is one layer, those of a pattern (pattern.py), or n where every n-th is
checkpointed; layers before and after the pattern are always there. Where the deeper play has a run of things more, and
that run repeats the one before it, the run is repeated; where it has more tensors of a class, their number grows with
depth. Nothing else may differ. Never is a peak extrapolated: which height is the highest can change with depth. What
does not fit this pattern is played in full.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from oomph.recipe import Change, Class, Delta, Part, Recipe, Term
from oomph.tape.recorder import Recorder
from oomph.tape.sizes import Expression, Sheet, SizeLike

MODELS = ("", "reference.", "assistant.", "value.", "reward.")  # in front of the paths of the models of a job
LAYER = re.compile(r"layer (\d+) (\w+)")
T = TypeVar("T")
Counts = tuple[tuple[int, int], ...]  # (class, how many more) in order of classes


class Unfoldable(Exception):  # noqa: N818  not an error: play in full instead
    """The steps of two depths do not fit the pattern."""


class Segment(NamedTuple):
    """What lies between two marks of a played step: changes from height to height, the last to its end."""

    work: str
    layer: int | None
    deltas: tuple[Counts, ...]


class Classes:
    """The classes of tensors met so far; both plays share them."""

    def __init__(self, stack: str) -> None:
        self.prefix = f"{stack}."
        self.numbers: dict[tuple[Any, ...], int] = {}
        self._scopes: dict[str, str] = {}

    def scope(self, path: str) -> str:
        """Return a module's path with a * for the layer's number."""
        found = self._scopes.get(path)
        if found is None:
            found = path
            model, prefix, inside = path.partition(self.prefix)
            if prefix and model in MODELS:
                _, dot, rest = inside.partition(".")
                found = f"{model}{prefix}*{dot}{rest}"
            self._scopes[path] = found
        return found

    def of(self, recorder: Recorder) -> list[int]:
        """Return the class of each allocation."""
        numbers, why, times = self.numbers, recorder.why, recorder.times
        return [
            numbers.setdefault(
                (*made[:4], self.scope(made.scope), why.get(ordinal, ""), times.get(ordinal, 1)), len(numbers)
            )
            for ordinal, made in enumerate(recorder.allocations)
        ]


def segments(recorder: Recorder, classes: Classes) -> list[Segment]:
    """Return a played step in the form that is compared; what comes after the mark "end" is left out."""
    kinds, events = classes.of(recorder), recorder.events
    ends = [position for position, _ in recorder.marks[1:]]
    found = []
    for (begin, name), end in zip(recorder.marks, ends, strict=False):
        layer = LAYER.fullmatch(name)
        work, number = (layer[2], int(layer[1])) if layer else (name, None)
        found.append(Segment(work, number, _deltas(events[begin:end], kinds)))
    return found


def _deltas(events: Sequence[int], kinds: Sequence[int]) -> tuple[Counts, ...]:
    """Return what changes up to each allocation that a free follows, and then up to the end."""
    found: list[Counts] = []
    delta: dict[int, int] = {}
    rising = False
    for event in events:
        if event >= 0:
            rising, kind, step = True, kinds[event], 1
        else:
            if rising:
                found.append(tuple(sorted(delta.items())))
                delta, rising = {}, False
            kind, step = kinds[~event], -1
        total = delta.get(kind, 0) + step
        if total:
            delta[kind] = total
        else:
            del delta[kind]
    found.append(tuple(sorted(delta.items())))
    return (*found, ()) if rising else tuple(found)


def unfolded(played: Sequence[Segment]) -> tuple[Part, ...]:
    """Return the parts of a step that was played in full."""
    return tuple(_once(segment, shifted=False) for segment in played)


def folded(few: Sequence[Segment], more: Sequence[Segment]) -> tuple[Part, ...]:
    """Return the parts of a step of any depth from two depths; raises Unfoldable."""
    runs = [[(work, list(run)) for work, run in groupby(played, _run_of)] for played in (few, more)]
    if [work for work, _ in runs[0]] != [work for work, _ in runs[1]]:
        raise Unfoldable
    parts: list[Part] = []
    for (_, a), (_, b) in zip(*runs, strict=True):
        if a[0].layer is None:
            if (len(a), len(b)) != (1, 1):
                raise Unfoldable
            parts += _grown(a[0], b[0])
        else:
            parts += _layers(a, b)
    return tuple(parts)


def _run_of(segment: Segment) -> tuple[str, bool]:
    return segment.work, segment.layer is not None


def _layers(few: list[Segment], more: list[Segment]) -> list[Part]:
    """Return the layers of one pass: those before the repeated ones, the repeated ones, those after them."""
    before, block, after = _inserted([one.deltas for one in few], [one.deltas for one in more])
    down = len(few) > 1 and (few[0].layer or 0) > (few[1].layer or 0)
    repeated = few[len(before) - len(block) : len(before)]
    return [
        *(_once(one, shifted=down) for one in few[: len(before) - len(block)]),
        _repeated(repeated, shifted=down),
        *(_once(one, shifted=not down) for one in few[len(few) - len(after) :]),
    ]


def _inserted(few: Sequence[T], more: Sequence[T]) -> tuple[Sequence[T], Sequence[T], Sequence[T]]:
    """Return (before, block, after): few is before + after, more has between them one block more, equal to the last."""
    period = len(more) - len(few)
    same = 0
    while same < len(few) and few[same] == more[same]:
        same += 1
    before, block, after = more[:same], more[same : same + period], more[same + period :]
    if period < 1 or same < period or before[same - period :] != block or few[same:] != after:
        raise Unfoldable
    return before, block, after


def _grown(few: Segment, more: Segment) -> list[Part]:
    """Return a segment in which tensors become more with depth, or a loop over layers is longer."""
    if len(few.deltas) == len(more.deltas):
        deltas = tuple(_growing(a, b) for a, b in zip(few.deltas, more.deltas, strict=True))
        return [Part(few.work, None, False, False, deltas)]
    before, block, after = _inserted(few.deltas, more.deltas)
    head = before[: len(before) - len(block)]
    # Parts follow each other without a mark: a part's last delta leads to its end, where the next one goes on.
    return [
        Part(few.work, None, False, False, (*map(_constant, head), ())),
        Part(few.work, None, False, True, (*map(_constant, block), ())),
        Part(few.work, None, False, False, tuple(map(_constant, after)) or ((),)),
    ]


def _growing(few: Counts, more: Counts) -> Delta:
    a, b = dict(few), dict(more)
    return tuple(
        Change(kind, a.get(kind, 0), b.get(kind, 0) - a.get(kind, 0)) for kind in sorted({*a, *b})
    )  # fmt: skip


def _constant(counts: Counts) -> Delta:
    return tuple(Change(kind, count, 0) for kind, count in counts)


def _once(segment: Segment, shifted: bool) -> Part:
    return Part(segment.work, segment.layer, shifted, False, tuple(map(_constant, segment.deltas)))


def _repeated(period: Sequence[Segment], shifted: bool) -> Part:
    """Return one part for the segments of a period: where one ends the next goes on."""
    first, *others = period
    deltas: list[Delta] = list(map(_constant, first.deltas))
    for segment in others:
        deltas.append(_joined(deltas.pop(), _constant(segment.deltas[0])))
        deltas += map(_constant, segment.deltas[1:])
    return Part(first.work, first.layer, shifted, True, tuple(deltas))


def _joined(a: Delta, b: Delta) -> Delta:
    total = {change.kind: change.number for change in a}
    for change in b:
        total[change.kind] = total.get(change.kind, 0) + change.number
    return _constant(tuple((kind, count) for kind, count in sorted(total.items()) if count))


def written(
    sheet: Sheet, classes: Classes, parts: tuple[Part, ...], layers: SizeLike, depth: int, period: int
) -> Recipe:
    """Return the recipe of played steps: expressions become numbers of products."""
    products: dict[tuple[int, tuple[int, ...]], int] = {}

    def term(size: SizeLike) -> Term:
        if not isinstance(size, Expression):
            return size
        return (products.setdefault((size.factor, size.atoms), len(products)),)

    atoms = tuple((how, term(left), term(right)) for how, left, right in sheet.atoms)
    guards = tuple((how, term(left), term(right), answer) for (how, left, right), answer in sheet.guards.items())
    rows = tuple(
        Class(term(n_bytes), op, tuple(map(term, shape)), dtype, scope, why, term(times))
        for n_bytes, op, shape, dtype, scope, why, times in classes.numbers
    )
    total = term(layers)
    return Recipe(atoms, tuple(products), guards, rows, parts, total, depth, period)
