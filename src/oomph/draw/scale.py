"""What stands on the axes: round heights on the left, instants below."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from oomph.draw.markup import text_width
from oomph.timeline import Instant, Timeline
from oomph.units import GIB, KIB, MIB

STEPS = (1, 2, 5, 10)
TENTH = 10
ROWS = 4  # of labels below the axis
GAP = 4.0  # between a line and its words, in pixels
MOST_FLAGS = 12
TICKS = 6  # at most so many above zero
_NUMBER = re.compile(r"\d+")


class Span(NamedTuple):
    """Neighbouring instants that differ in a number only, under one label: `points[first:end]`."""

    label: str
    first: int
    end: int
    peak: int
    instants: tuple[Instant, ...]


def unit(n_bytes: int) -> tuple[int, str]:
    """Return the binary unit an axis up to so many bytes is written in: GiB where it can be.

    >>> unit(2 * GIB), unit(GIB // 100)[1]
    ((1073741824, 'GiB'), 'MiB')
    """
    return next(((size, name) for size, name in ((GIB, "GiB"), (MIB, "MiB")) if n_bytes >= size), (KIB, "KiB"))


def ticks(most_bytes: int) -> list[tuple[int, str]]:
    """Return (bytes, number in the axis' unit) up to `most_bytes`, round and rising.

    >>> [text for _, text in ticks(75 * GIB)]
    ['0', '20', '40', '60']
    """
    size, _ = unit(most_bytes)
    tenths = 1  # steps below one unit: 0.1, 0.2, 0.5
    while STEPS[-1] * tenths * size * TICKS < most_bytes * TENTH:
        tenths *= STEPS[-1]
    step = next(step * tenths for step in STEPS if step * tenths * size * TICKS >= most_bytes * TENTH)
    count = most_bytes * TENTH // (step * size)
    return [(index * step * size // TENTH, f"{index * step / TENTH:,g}") for index in range(count + 1)]


def spans(timeline: Timeline) -> list[Span]:
    """Return the timeline's instants with neighbours of one pattern drawn together."""
    pattern = lambda instant: _NUMBER.sub("#", instant.name)  # noqa: E731
    return [_span(timeline, tuple(run)) for _, run in groupby(timeline.instants(), pattern)]


def _span(timeline: Timeline, run: tuple[Instant, ...]) -> Span:
    peak = max((one.peak for one in run), key=timeline.totals.__getitem__)
    return Span(_label(run[0].name, run[-1].name), run[0].first, run[-1].end, peak, run)


def _label(first: str, last: str) -> str:
    """Return one name for instants from the first to the last.

    >>> _label("layer 0 forward", "layer 31 forward"), _label("loss", "loss")
    ('layers 0–31 forward', 'loss')
    """
    ends = iter(_NUMBER.findall(last))
    label = _NUMBER.sub(lambda found: found[0] if found[0] == (end := next(ends)) else f"{found[0]}–{end}", first)
    return re.sub(r"\blayer (?=\d+–)", "layers ", label)


class Label(NamedTuple):
    """A label below the axis: the place it names, the middle of its words, its row. In row 0 it needs no line."""

    text: str
    x: float
    middle: float
    row: int
    wide: float


def labels(stretches: Iterable[tuple[str, float, float]], size: float, left: float, right: float) -> list[Label]:
    """Return labels for the stretches (text, from, to) of an axis that reaches from left to right.

    One that fits below its stretch stands there. The others hang on lines like flags, in rows below, so that no line
    crosses words; where there is no room for all, the narrowest stretches go without.
    """
    placed, narrow = [], []
    for text, low, high in stretches:
        label = Label(text, (low + high) / 2, (low + high) / 2, 0, text_width(text, size))
        if label.wide + 2 * GAP <= high - low:
            placed.append(label)
        else:
            narrow.append((high - low, label))
    hung = [label for _, label in sorted(narrow, key=lambda one: -one[0])][:MOST_FLAGS]
    hung = [one for one in hung if one.wide + GAP <= max(one.x - left, right - one.x)]
    early = [label for label in hung if label.x - left <= right - label.x]
    late = [label for label in hung if label not in early]
    for flags, side in ((early, 1), (late, -1)):  # they fly inward
        while (more := _hang(placed, flags, side, size)) is None:
            flags.pop()
        placed += more
    return placed


def _hang(placed: list[Label], flags: list[Label], side: int, size: float) -> list[Label] | None:
    """Return places for all flags, None if there is no room: those whose words lie under others' lines go lower."""
    hung: list[Label] = []
    for flag in sorted(flags, key=lambda one: -side * one.x):
        middle = flag.x + side * (flag.wide / 2 + GAP)
        tries = (flag._replace(middle=middle, row=row) for row in range(1, ROWS))
        free = next((one for one in tries if not any(_touch(one, other, size) for other in placed + hung)), None)
        if free is None:
            return None
        hung.append(free)
    return hung


def _touch(one: Label, other: Label, size: float) -> bool:
    """Tell whether the words of two labels, or the line of one and the words of the other, would touch."""
    upper, lower = sorted((one, other), key=lambda label: label.row)
    if upper.row == lower.row:
        words = abs(upper.middle - lower.middle) < (upper.wide + lower.wide + size) / 2
        return words or any(abs(a.x - b.middle) < b.wide / 2 for a, b in ((one, other), (other, one)) if a.row)
    return abs(lower.x - upper.middle) < upper.wide / 2 + GAP / 2
