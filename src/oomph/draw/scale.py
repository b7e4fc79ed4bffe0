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
    """A label below the axis: where it points, its middle, its row from 0."""

    text: str
    x: float
    middle: float
    row: int


def labels(
    wanted: Iterable[tuple[str, float, float]], size: float, frame: tuple[float, float], rows: int
) -> list[Label]:
    """Return the labels of stretches (text, from, to) that fit below an axis from frame[0] to frame[1], the first first.

    A label wider than its stretch goes a row down, with a line up to the axis, to whichever side there is room.
    """
    placed: list[Label] = []
    for text, low, high in wanted:
        wide, x = text_width(text, size), (low + high) / 2
        tries = [Label(text, x, x, 0)] if wide <= high - low else []
        middles = [min(max(x + shift, frame[0] + wide / 2), frame[1] - wide / 2) for shift in (0, -wide / 2, wide / 2)]
        tries += [Label(text, x, middle, row) for row in range(1, rows) for middle in middles]
        free = next((label for label in tries if not any(_touch(label, other, size) for other in placed)), None)
        placed += [free] if free else []
    return placed


def _touch(one: Label, other: Label, size: float) -> bool:
    """Tell whether two labels, or the line of one and the words of the other, would touch."""
    if one.row == other.row:
        return abs(one.middle - other.middle) < (text_width(one.text, size) + text_width(other.text, size) + size) / 2
    upper, lower = sorted((one, other), key=lambda label: label.row)
    return abs(lower.x - upper.middle) < text_width(upper.text, size) / 2 + 2
