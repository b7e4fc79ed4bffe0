"""Memory over the instants of a job: what a drawing sees, made of an event stream or by hand.

A `Timeline` is a list of heights in order. There is no clock: an estimate, a trace and a measurement of one job agree
in the order of their events, not in time. `aligned` lays them over each other by the names of their instants.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import nlargest
from itertools import pairwise
from typing import NamedTuple

from oomph.errors import UsageError
from oomph.stream import Label, Stream, rounded
from oomph.units import human

SOURCES = ("estimate", "trace", "measured")
# From the bottom up: what lies there for good, then what comes and goes.
STACKED = (
    "weights", "adapters", "master_weights", "optimizer", "buffers", "runtime", "kv_cache", "state", "weight_copies",
    "gradients", "activations", "temporaries",
)  # fmt: skip
MOST_POINTS = 1200  # a little more than a drawing has pixels across
LARGEST = 3  # tensors named at a point

GroupOf = Callable[[int, "Label | None"], str]


@dataclass(frozen=True)
class Point:
    """A height of memory.

    `instant` is the moment's name ("" where none is known), `groups` the bytes alive by group, `top` the largest
    tensors made in the job, in words, equal ones together.
    """

    instant: str
    groups: tuple[int, ...]
    top: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Everything alive."""
        return sum(self.groups)


class Instant(NamedTuple):
    """A stretch of points of one name: `points[first:end]`, with the index of its largest."""

    name: str
    first: int
    end: int
    peak: int


@dataclass(frozen=True)
class Timeline:
    """Memory over one job. `groups` are names as in `ledger.GROUPS`, in the order they are stacked from the bottom.

    >>> line = Timeline("tiny", "estimate", ("weights", "activations"), (Point("a", (4, 0)), Point("b", (4, 3))))
    >>> line.peak, line.peak_bytes, line.instants()[1]
    (1, 7, Instant(name='b', first=1, end=2, peak=1))
    """

    title: str
    source: str
    groups: tuple[str, ...]
    points: tuple[Point, ...]
    capacity_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise UsageError(f"{self.source[:40]!r} is no source of a timeline.", f"Say one of {', '.join(SOURCES)}.")
        if not self.points or not self.groups:
            raise UsageError("There is nothing to draw: no memory was recorded.", "Record a whole step.")
        if any(len(point.groups) != len(self.groups) or min(point.groups) < 0 for point in self.points):
            raise UsageError("A point needs one byte count for each group, none below 0.", f"Groups: {self.groups}.")
        if self.capacity_bytes is not None and self.capacity_bytes <= 0:
            raise UsageError("A device has more than 0 bytes.", "Leave its capacity out if it is not known.")

    @cached_property
    def totals(self) -> tuple[int, ...]:
        """The bytes alive at each point."""
        return tuple(point.total_bytes for point in self.points)

    @cached_property
    def peak(self) -> int:
        """The index of the largest point, the first of equals."""
        return _highest(self.totals, 0, len(self.totals))

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive at any point."""
        return self.totals[self.peak]

    def instants(self) -> tuple[Instant, ...]:
        """Return the consecutive stretches of points with equal names."""
        names = [point.instant for point in self.points]
        firsts = [index for index, name in enumerate(names) if index == 0 or name != names[index - 1]]
        return tuple(
            Instant(names[first], first, end, _highest(self.totals, first, end))
            for first, end in pairwise([*firsts, len(names)])
        )


def thinned(timeline: Timeline, most: int = MOST_POINTS) -> Timeline:
    """Return the timeline with at most so many points, each one of its own, in order.

    The peak of every instant stays as it is. Where there are more instants than points, the highest of neighbouring
    instants stays, and with it the peak of the whole.
    """
    firsts = [instant.first for instant in timeline.instants()]
    kept = _kept(timeline.totals, firsts, most)
    return replace(timeline, points=tuple(timeline.points[index] for index in kept))


def from_stream(
    stream: Stream,
    group: GroupOf,
    *,
    title: str,
    source: str,
    start: int = 0,
    stop: int | None = None,
    capacity_bytes: int | None = None,
    most: int = MOST_POINTS,
) -> Timeline:
    """Return the timeline of a stream's events from `start` to `stop`, thinned as `thinned` does.

    `group` says which group an allocation belongs to, by its ordinal and label. Bytes are rounded to 512 B each, as
    `Stream.live` counts them. An instant begins at the height the one before it left; one without events is left out,
    unless it is the last. A point names the largest tensors made since the start.
    """
    spans = _spans(stream, start, len(stream.events) if stop is None else stop)
    live = [0, *stream.live()]
    moments = [(position, name) for name, first, last in spans for position in range(first, last + 1)]
    ends = [0]
    for _, first, last in spans:
        ends.append(ends[-1] + last + 1 - first)
    kept = _kept([live[position] for position, _ in moments], ends[:-1], most)
    of = {ordinal: group(ordinal, stream.labels.get(ordinal)) for ordinal, n_bytes in stream.events if n_bytes > 0}
    found = dict.fromkeys(of.values()) or {STACKED[0]: None}
    groups = (*(name for name in STACKED if name in found), *(name for name in found if name not in STACKED))
    made = {ordinal for ordinal, n_bytes in stream.events[start:stop] if n_bytes > 0}
    points = tuple(_points(stream, [moments[index] for index in kept], of, groups, made))
    return Timeline(title, source, groups, points, capacity_bytes)


def aligned(timelines: Sequence[Timeline]) -> tuple[tuple[float, ...], ...]:
    """Return the edges of each timeline's points on a common axis from 0 to 1: point i reaches from x[i] to x[i + 1].

    The first is laid out evenly. The others take their places from the instants they have in common with it, in
    order; in between, and where nothing is in common, they are laid out proportionally. One that begins or ends with
    an instant from the middle of the first covers only that part of the axis.
    """
    base = timelines[0]
    return tuple(_edges(line, list(_anchors(base, line))) for line in timelines)


def _anchors(base: Timeline, line: Timeline) -> Iterator[tuple[int, float]]:
    """Yield (index in line, x) of the borders of every instant that both have, rising in both."""
    places = dict(numbered(base))
    shared = [(places[key], own) for key, own in numbered(line) if key[0] and key in places]
    for there, own in _rising(shared):
        yield own.first, there.first / len(base.points)
        yield own.end, there.end / len(base.points)


def numbered(line: Timeline) -> Iterator[tuple[tuple[str, int], Instant]]:
    """Yield each instant under its name and how often the name came before: with accumulation they repeat."""
    seen: dict[str, int] = {}
    for instant in line.instants():
        number = seen[instant.name] = seen.get(instant.name, -1) + 1
        yield (instant.name, number), instant


def _rising(pairs: list[tuple[Instant, Instant]]) -> list[tuple[Instant, Instant]]:
    """Return the longest part of pairs whose first members are in order, too (patience sorting)."""
    tails: list[int] = []  # the smallest end of a rising row of each length
    rows: list[int] = []  # the pair that ends it
    before: list[int] = []
    for index, (there, _) in enumerate(pairs):
        length = bisect_left(tails, there.first)
        if length == len(tails):
            tails.append(there.first)
            rows.append(index)
        tails[length], rows[length] = there.first, index
        before.append(rows[length - 1] if length else -1)
    chain, index = [], rows[-1] if rows else -1
    while index >= 0:
        chain.append(pairs[index])
        index = before[index]
    return chain[::-1]


def _edges(line: Timeline, anchors: list[tuple[int, float]]) -> tuple[float, ...]:
    """Return an x for each edge of the line's points, by straight lines between the anchors."""
    if not anchors or anchors[0][0] > 0:
        anchors = [(0, 0.0), *anchors]
    if anchors[-1][0] < len(line.points):
        anchors = [*anchors, (len(line.points), 1.0)]
    indices = [index for index, _ in anchors]
    edges = []
    for edge in range(len(line.points) + 1):
        right = min(bisect_right(indices, edge), len(anchors) - 1)
        (low, x_low), (high, x_high) = anchors[right - 1], anchors[right]
        inside = x_low + (x_high - x_low) * (edge - low) / (high - low) if high > low else x_high
        edges.append(min(inside, x_high))  # floats may overshoot
    return tuple(edges)


def _spans(stream: Stream, start: int, stop: int) -> list[tuple[str, int, int]]:
    """Return (name, first, last) of the stream's instants: it begins after `first` events and ends after `last`."""
    named = [name for position, name in stream.marks if position <= start]
    marks = [(start, named[-1] if named else ""), *(mark for mark in stream.marks if start < mark[0] <= stop)]
    found = [(name, first, last) for (first, name), (last, _) in pairwise([*marks, (stop, "")])]
    return [span for span in found[:-1] if span[1] < span[2]] + found[-1:]


def _kept(totals: Sequence[int], firsts: Sequence[int], most: int) -> list[int]:
    """Return at most `most` indices in order: the highest of each stretch, and evenly its highs and lows."""
    if len(totals) <= most:
        return list(range(len(totals)))
    firsts = firsts[:: -(-len(firsts) // most)]
    spare = most - len(firsts)
    kept = set()
    for first, end in pairwise([*firsts, len(totals)]):
        kept.add(_highest(totals, first, end))
        buckets = spare * (end - first) // len(totals) // 2  # each has a high and a low
        cuts = [first + (end - first) * index // buckets for index in range(buckets + 1)] if buckets else []
        for low, high in pairwise(cuts):
            kept.update((_highest(totals, low, high), min(range(low, high), key=totals.__getitem__)))
    return sorted(kept)


def _highest(totals: Sequence[int], first: int, end: int) -> int:
    return max(range(first, end), key=totals.__getitem__)


def _points(
    stream: Stream, moments: list[tuple[int, str]], of: dict[int, str], groups: tuple[str, ...], made: set[int]
) -> Iterator[Point]:
    """Yield a point for each (position, instant), positions rising; tensors in `made` are named."""
    place = {name: index for index, name in enumerate(groups)}
    alive = [0] * len(groups)
    kinds: dict[tuple[str, tuple[int, ...], str], list[int]] = {}  # equal tensors: how many, bytes
    done = 0
    for position, instant in moments:
        for ordinal, n_bytes in stream.events[done:position]:
            sign = 1 if n_bytes > 0 else -1
            alive[place[of[ordinal]]] += sign * rounded(abs(n_bytes))
            if ordinal in made and (label := stream.labels.get(ordinal)):
                kind = kinds.setdefault((label.op, label.shape, label.dtype), [0, 0])
                kind[0] += sign
                kind[1] += n_bytes
        done = position
        yield Point(instant, tuple(alive), tuple(_largest(kinds)))


def _largest(kinds: dict[tuple[str, tuple[int, ...], str], list[int]]) -> Iterator[str]:
    for (op, shape, dtype), (number, n_bytes) in nlargest(LARGEST, kinds.items(), key=lambda one: one[1][1]):
        if number:
            yield f"{number} x {op} {list(shape)} {dtype}: {human(n_bytes)}"
