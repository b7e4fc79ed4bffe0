"""A timeline as SVG: stacked areas by group, the peak, the device's capacity, the instants; further ones as lines.

Written by hand: no library, no script, no font of its own. Light and dark follow the reader's setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from oomph.draw.colours import colours
from oomph.draw.markup import Markup, element, joined, number, text_width
from oomph.draw.scale import ROWS, Span, labels, spans, ticks, unit
from oomph.draw.style import FONT, STYLE
from oomph.draw.words import BASE, BOLD, GAP, LINE, PAD, at_instant, capacity_of, describe, heading, legend
from oomph.timeline import Timeline, aligned
from oomph.units import human

TICK, LONG_TICK = 4.0, 8.0
FITS_SCALE = 3  # a capacity further above the peak than this would flatten the drawing: it is told in words only
FLEETING = ("activations", "temporaries")  # groups that come and go within an instant
HEADROOM = 1.06  # the axis ends a little above the highest point and the capacity


@dataclass(frozen=True)
class Frame:
    """Where the plot lies in a drawing, in pixels, and how bytes become heights."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    most_bytes: int

    def x(self, share: float) -> float:
        """Return the place of a share of the axis, 0 to 1."""
        return self.left + (self.right - self.left) * share

    def y(self, n_bytes: int) -> float:
        """Return the height of so many bytes."""
        return self.bottom - (self.bottom - self.top) * n_bytes / self.most_bytes


@dataclass(frozen=True)
class Drawing:
    """A finished drawing and where its plot lies, for what is put over it."""

    markup: Markup
    frame: Frame


def draw_svg(timelines: Sequence[Timeline], width: float = 960, height: float = 540, name: str = "oomph") -> Drawing:
    """Return the first timeline as areas, further ones as lines over it. Names must be clean and points few.

    `name` sets the ids apart where a page holds two drawings.
    """
    first, edges = timelines[0], aligned(timelines)
    capacity = capacity_of(timelines)
    shown = capacity if capacity is not None and capacity <= FITS_SCALE * _highest(timelines) else None
    most_bytes = int(HEADROOM * max(_highest(timelines), shown or 0))
    scale = ticks(most_bytes)
    head, lines = heading(first, capacity, width)
    under = PAD + LINE * (lines + BASE + GAP)
    key, rows = legend(timelines, width, under)
    left = PAD + max(text_width(text, FONT) for _, text in scale) + TICK * 2
    top = under + LINE * (rows + BASE)
    frame = Frame(width, height, left, width - PAD, top, height - PAD - LINE * ROWS, most_bytes)
    runs = spans(first)
    body = joined(
        element("rect", class_="page", width=width, height=height),
        head,
        key,
        *_heights(frame, scale),
        *_zone(frame, shown),
        element("g", *_areas(frame, first, edges[0]), class_="areas"),
        *_instants(frame, first, runs, edges[0]),
        *_limit(frame, first, edges[0], shown),
        *_outlines(frame, timelines, edges),
        *_peak(frame, first, edges[0]),
    )
    ids = {"aria_labelledby": f"{name}-title {name}-desc", "role": "img", "class_": "oomph"}
    markup = element(
        "svg",
        element("title", first.title, id=f"{name}-title"),
        element("desc", describe(timelines, runs), id=f"{name}-desc"),
        element("style", Markup(STYLE)),
        body,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
        **ids,
    )
    return Drawing(markup, frame)


def _highest(timelines: Sequence[Timeline]) -> int:
    return max(1, *(one.peak_bytes for one in timelines))


def _heights(frame: Frame, scale: Sequence[tuple[int, str]]) -> Iterator[Markup]:
    """The lines across, each with its height; the top one names the unit."""
    _, name = unit(frame.most_bytes)
    lines = "".join(f"M{number(frame.left)} {number(frame.y(n_bytes))}H{number(frame.right)}" for n_bytes, _ in scale)
    yield element("path", class_="grid", d=Markup(lines))
    for n_bytes, text in scale:
        place = {"x": frame.left - TICK, "y": frame.y(n_bytes) + FONT / 3}
        yield element("text", text, class_="soft", text_anchor="end", **place)
    yield element("text", name, class_="soft", x=PAD, y=frame.top - FONT)


def _areas(frame: Frame, timeline: Timeline, edges: Sequence[float]) -> Iterator[Markup]:
    """The groups as areas: each from the ground up to the top of its layer, the higher ones first."""
    tops = [list(accumulate(point.groups)) for point in timeline.points]
    for index in reversed(range(len(timeline.groups))):
        steps = _steps(frame, [heights[index] for heights in tops], edges)
        ground = Markup(f"{steps}V{number(frame.bottom)}H{number(frame.x(edges[0]))}Z")
        fill = colours(timeline.groups)[index]
        # An outline of its own colour keeps a peak of one event visible.
        own = {"stroke": fill} if timeline.groups[index] in FLEETING else {}
        yield element("path", d=ground, fill=fill, **own)


def _steps(frame: Frame, heights: Sequence[int], edges: Sequence[float]) -> Markup:
    """Return the path along heights that stay until the next point. Its x never falls."""
    path: list[str] = []
    before = ""
    for n_bytes, edge in zip(heights, edges, strict=False):
        y = number(frame.y(n_bytes))
        if y != before:
            x = number(frame.x(edge))
            path.append(f"H{x}V{y}" if path else f"M{x} {y}")
        before = y
    return Markup("".join([*path, f"H{number(frame.x(edges[len(heights)]))}"]))


def _instants(frame: Frame, timeline: Timeline, runs: Sequence[Span], edges: Sequence[float]) -> Iterator[Markup]:
    """The axis below: a short tick for every instant, a long one and a label for every span."""
    ground = number(frame.bottom)
    short = "".join(f"M{number(frame.x(edges[one.first]))} {ground}v{number(TICK)}" for one in timeline.instants())
    long = "".join(f"M{number(frame.x(edges[run.first]))} {ground}v{number(LONG_TICK)}" for run in runs)
    yield element("path", class_="axis", d=Markup(f"M{number(frame.left)} {ground}H{number(frame.right)}{short}{long}"))
    named = [(run.label, frame.x(edges[run.first]), frame.x(edges[run.end])) for run in runs if run.label]
    for label in labels(named, FONT, frame.left, frame.right):
        y = frame.bottom + LONG_TICK + FONT + LINE * label.row
        side = 0 if not label.row else 1 if label.middle > label.x else -1
        if side:
            line = f"M{number(label.x)} {number(frame.bottom + TICK)}V{number(y)}"
            yield element("path", class_="grid", d=Markup(line))
        anchor = ("middle", "start", "end")[side]
        yield element("text", label.text, class_="soft", text_anchor=anchor, x=label.x + side * TICK, y=y)


def _zone(frame: Frame, capacity: int | None) -> Iterator[Markup]:
    """What lies above the device's capacity, behind everything."""
    if capacity is not None:
        size = {"width": frame.right - frame.left, "height": frame.y(capacity) - frame.top}
        yield element("rect", class_="over", x=frame.left, y=frame.top, **size)


def _limit(frame: Frame, first: Timeline, edges: Sequence[float], capacity: int | None) -> Iterator[Markup]:
    """The device's capacity as a line; its words on the side where the peak is not."""
    if capacity is None:
        return
    y = frame.y(capacity)
    yield element("path", class_="capacity", d=Markup(f"M{number(frame.left)} {number(y)}H{number(frame.right)}"))
    early = edges[first.peak] < 1 / 2
    yield element(
        "text",
        f"device {human(capacity)}",
        class_="warn",
        x=frame.right - TICK if early else frame.left + TICK,
        y=y - TICK,
        text_anchor="end" if early else "start",
    )


def _outlines(frame: Frame, timelines: Sequence[Timeline], edges: Sequence[Sequence[float]]) -> Iterator[Markup]:
    """The totals of further timelines, over a halo that parts them from any colour below."""
    for index, (timeline, own) in enumerate(zip(timelines[1:], edges[1:], strict=True)):
        line = _steps(frame, timeline.totals, own)
        yield element("path", class_="halo", d=line)
        yield element("path", class_=f"line dash{index}", d=line)


def _peak(frame: Frame, first: Timeline, edges: Sequence[float]) -> Iterator[Markup]:
    """A pin in the highest point, its bytes and instant in the strip above the plot."""
    x, y = frame.x((edges[first.peak] + edges[first.peak + 1]) / 2), frame.y(first.peak_bytes)
    text = f"peak {human(first.peak_bytes)}{at_instant(first.points[first.peak].instant)}"
    half = BOLD * text_width(text, FONT) / 2
    middle = min(max(x, PAD + half), frame.right - half)
    yield element("path", class_="pin", d=Markup(f"M{number(x)} {number(frame.top - TICK * 2)}V{number(y)}"))
    yield element("circle", class_="dot", cx=x, cy=y, r=4)
    yield element("text", text, class_="strong", text_anchor="middle", x=middle, y=frame.top - FONT)
