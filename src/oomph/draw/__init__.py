"""Drawing timelines into a file: SVG, PNG or a page that answers to the pointer, chosen by the file's suffix.

A drawing sees nothing but `Timeline`: no model, no job, no formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from oomph.draw.markup import clean
from oomph.errors import SourceError, UsageError
from oomph.timeline import Point, Timeline, thinned

SUFFIXES = (".svg", ".png", ".html")
MOST_DRAWN = 1000  # points: about a pixel each
MAX_TIMELINES = 4  # areas and three kinds of dashes
MAX_GROUPS = 12
MAX_TITLE, MAX_NAME, MAX_TENSOR = 100, 40, 80  # characters shown of a text from outside


def write(path: Path, timelines: Sequence[Timeline]) -> None:
    """Draw the first timeline as areas and further ones as lines over it, into `path`.

    Raises UsageError for another suffix or more than can be told apart, SourceError where the file cannot be written,
    OomphError where PNG is asked for without the library that makes it.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        shown = clean(Path(path).name, MAX_NAME)
        raise UsageError(f"{shown!r} names no kind of drawing.", f"Let it end in {', '.join(SUFFIXES)}.")
    save(path, _renderer(suffix)(prepared(timelines)))


def save(path: Path, data: bytes) -> None:
    """Write a drawing; raises SourceError where the file cannot be written."""
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SourceError(f"{clean(str(path), MAX_TITLE)} cannot be written: {reason}.", "Name another file.") from None


def prepared(timelines: Sequence[Timeline]) -> list[Timeline]:
    """Return the timelines fit to be drawn: few enough points, every text from outside clean and short."""
    if not timelines:
        raise UsageError("There is nothing to draw.", "Give a timeline.")
    if len(timelines) > MAX_TIMELINES or any(len(one.groups) > MAX_GROUPS for one in timelines):
        raise UsageError(
            f"A drawing tells {MAX_TIMELINES} timelines and {MAX_GROUPS} groups apart.", "Draw fewer at once."
        )
    return [_tidy(thinned(one, MOST_DRAWN)) for one in timelines]


def _tidy(timeline: Timeline) -> Timeline:
    points = tuple(
        Point(clean(point.instant, MAX_NAME), point.groups, tuple(clean(text, MAX_TENSOR) for text in point.top))
        for point in timeline.points
    )
    groups = tuple(clean(name, MAX_NAME) for name in timeline.groups)
    return replace(timeline, title=clean(timeline.title, MAX_TITLE), groups=groups, points=points)


def _renderer(suffix: str) -> Callable[[Sequence[Timeline]], bytes]:
    """Return what makes a file's bytes; each is loaded only when it is asked for."""
    if suffix == ".html":
        from oomph.draw.html import draw_html

        return lambda timelines: draw_html(timelines).encode()
    if suffix == ".png":
        from oomph.draw.png import draw_png

        return draw_png
    from oomph.draw.svg import draw_svg

    return lambda timelines: draw_svg(timelines).markup.encode()
