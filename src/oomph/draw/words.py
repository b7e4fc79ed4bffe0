"""What a drawing says in words: its title, the peak, the legend, and a text for screen readers."""

from __future__ import annotations

from collections.abc import Sequence

from oomph.draw.colours import colours
from oomph.draw.markup import Markup, element, joined, number, text_width
from oomph.draw.scale import Span
from oomph.draw.style import FONT, HEAD
from oomph.timeline import Timeline
from oomph.units import human

LINE = 18.0  # from one line of text to the next
PAD = 16.0
BOLD = 1.1  # how much wider bold text is
BASE, GAP = 0.7, 0.25  # a baseline in its line, a gap below the heading, in lines
CHIP = 10.0  # a legend's square
DESCRIBED = 12  # spans in the text for screen readers


def describe(timelines: Sequence[Timeline], runs: Sequence[Span]) -> str:
    """Return the drawing in words."""
    first, *others = timelines
    at_peak = first.points[first.peak]
    parts = ", ".join(f"{name} {human(n_bytes)}" for name, n_bytes in zip(first.groups, at_peak.groups, strict=True))
    sentences = [
        f"Memory over one job ({first.source}). Peak {human(first.peak_bytes)}{at_instant(at_peak.instant)}: {parts}.",
        *(f"{source_name(first, other)}: peak {human(other.peak_bytes)}." for other in others),
    ]
    if (capacity := capacity_of(timelines)) is not None:
        sentences.append(f"The device has {human(capacity)}.")
    highest = [f"{run.label} {human(first.totals[run.peak])}" for run in runs if run.label][:DESCRIBED]
    return " ".join([*sentences, *(["Highest by instant: " + ", ".join(highest) + "."] if highest else [])])


def heading(first: Timeline, capacity: int | None, width: float) -> tuple[Markup, int]:
    """Return the title and what is said of the peak, and the number of lines they take."""
    words = f"{first.source} · peak {human(first.peak_bytes)}"
    if capacity is not None:
        over = first.peak_bytes - capacity
        words += f" · {human(abs(over))} {'over' if over > 0 else 'below'} the device's {human(capacity)}"
    style = "warn" if capacity is not None and first.peak_bytes > capacity else "soft"
    title = _wrapped(first.title, width - 2 * PAD, HEAD * BOLD)
    lines = [("title", line) for line in title] + [(style, line) for line in _wrapped(words, width - 2 * PAD, FONT)]
    pieces = [
        element("text", line, class_=name, x=PAD, y=PAD + LINE * (index + BASE))
        for index, (name, line) in enumerate(lines)
    ]
    return joined(*pieces), len(lines)


def _wrapped(text: str, width: float, size: float) -> list[str]:
    """Return text in at most two lines of a width, cut where it is longer."""
    first = text
    while text_width(first, size) > width and " " in first:
        first = first.rpartition(" ")[0]
    rest = text.removeprefix(first).strip()
    return [_fitting(line, width, size) for line in (first, rest) if line]


def _fitting(text: str, width: float, size: float) -> str:
    """Return text cut to a width."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


def legend(timelines: Sequence[Timeline], width: float, top: float) -> tuple[Markup, int]:
    """Return the legend with each group's bytes at the peak, and its number of rows."""
    first, *others = timelines
    at_peak = first.points[first.peak].groups
    entries = [(f"{name} {human(n_bytes)}", "") for name, n_bytes in zip(first.groups, at_peak, strict=True)]
    entries += [
        (f"{source_name(first, other)} {human(other.peak_bytes)}", f"dash{i}") for i, other in enumerate(others)
    ]
    fills = colours(first.groups)
    said = "at the peak:"
    pieces = [element("text", said, class_="soft", x=PAD, y=top)]
    x, row = PAD + text_width(said, FONT), 0
    for index, (words, dash) in enumerate(entries):
        text = _fitting(words, width - 2 * PAD - 2 * LINE, FONT)
        sample = 2 * LINE if dash else LINE
        wide = sample + text_width(text, FONT)
        if x > PAD and x + wide > width - PAD:
            x, row = PAD, row + 1
        y = top + LINE * row
        if dash:
            line = Markup(f"M{number(x)} {number(y - CHIP / 2)}h{number(sample - 6)}")
            pieces.append(element("path", class_=f"line {dash}", d=line))
        else:
            pieces.append(element("rect", x=x, y=y - CHIP, width=CHIP, height=CHIP, rx=2, fill=fills[index]))
        pieces.append(element("text", text, x=x + sample, y=y))
        x += wide + LINE
    return joined(*pieces), row + 1


def at_instant(instant: str) -> str:
    """Return the words for where a peak is, none where that has no name."""
    return f" at {instant}" if instant else ""


def capacity_of(timelines: Sequence[Timeline]) -> int | None:
    """Return the first capacity that a timeline knows."""
    return next((one.capacity_bytes for one in timelines if one.capacity_bytes is not None), None)


def source_name(first: Timeline, other: Timeline) -> str:
    """Return what tells another timeline from the first: its source, with its title where that differs, too."""
    return other.source if other.title == first.title else f"{other.source}, {other.title}"
