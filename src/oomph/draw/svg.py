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
from oomph.timeline import Timeline, aligned
from oomph.units import human

FONT, HEAD = 12.0, 16.0  # as in STYLE
LINE = 18.0  # from one line of text to the next
PAD = 16.0
BOLD = 1.1  # how much wider bold text is
BASE, GAP = 0.7, 0.25  # a baseline in its line, a gap below the heading, in lines
CHIP = 10.0  # a legend's square
TICK, LONG_TICK = 4.0, 8.0
FITS_SCALE = 3  # a capacity further above the peak than this would flatten the drawing: it is told in words only
HEADROOM = 1.06  # the axis ends a little above the highest point and the capacity
DESCRIBED = 12  # spans in the text for screen readers

STYLE = """\
.oomph{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif;fill:#1f2328}
.oomph .page{fill:#fff}
.oomph .title{font-size:16px;font-weight:600}
.oomph .soft{fill:#59636e}
.oomph .grid{stroke:#d1d9e0;fill:none}
.oomph .axis{stroke:#818b98;fill:none}
.oomph .areas{stroke:#fff;stroke-width:.6;stroke-linejoin:round}
.oomph .over{fill:#d1242f;fill-opacity:.14}
.oomph .capacity{stroke:#d1242f;stroke-width:1.5;fill:none}
.oomph .warn{fill:#b3121f}
.oomph .strong{font-weight:600}
.oomph .halo{stroke:#fff;stroke-width:3.5;stroke-opacity:.75;fill:none}
.oomph .line{stroke:#1f2328;stroke-width:1.6;fill:none}
.oomph .pin{stroke:#1f2328;fill:none}
.oomph .dot{fill:#1f2328;stroke:#fff;stroke-width:1.5}
.oomph .dash0{stroke-dasharray:7 4}
.oomph .dash1{stroke-dasharray:1.6 3.2}
.oomph .dash2{stroke-dasharray:9 3 2 3}
@media (prefers-color-scheme:dark){
.oomph{fill:#f0f6fc}
.oomph .page{fill:#0d1117}
.oomph .soft{fill:#9198a1}
.oomph .grid{stroke:#2f353d}
.oomph .axis{stroke:#656c76}
.oomph .areas{stroke:#0d1117}
.oomph .over{fill:#f85149;fill-opacity:.22}
.oomph .capacity{stroke:#f85149}
.oomph .warn{fill:#ff7b72}
.oomph .halo{stroke:#0d1117}
.oomph .line,.oomph .pin{stroke:#f0f6fc}
.oomph .dot{fill:#f0f6fc;stroke:#0d1117}
}
"""


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
    capacity = _capacity(timelines)
    shown = capacity if capacity is not None and capacity <= FITS_SCALE * _highest(timelines) else None
    most_bytes = int(HEADROOM * max(_highest(timelines), shown or 0))
    scale = ticks(most_bytes)
    heading, lines = _heading(first, capacity, width)
    under = PAD + LINE * (lines + BASE + GAP)
    legend, rows = _legend(timelines, width, under)
    left = PAD + max(text_width(text, FONT) for _, text in scale) + TICK * 2
    top = under + LINE * (rows + BASE)
    frame = Frame(width, height, left, width - PAD, top, height - PAD - LINE * ROWS, most_bytes)
    runs = spans(first)
    body = joined(
        element("rect", class_="page", width=width, height=height),
        heading,
        legend,
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


def describe(timelines: Sequence[Timeline], runs: Sequence[Span]) -> str:
    """Return the drawing in words."""
    first, *others = timelines
    at_peak = first.points[first.peak]
    parts = ", ".join(f"{name} {human(n_bytes)}" for name, n_bytes in zip(first.groups, at_peak.groups, strict=True))
    sentences = [
        f"Memory over one job ({first.source}). Peak {human(first.peak_bytes)}{_at(at_peak.instant)}: {parts}.",
        *(f"{source_name(first, other)}: peak {human(other.peak_bytes)}." for other in others),
    ]
    if (capacity := _capacity(timelines)) is not None:
        sentences.append(f"The device has {human(capacity)}.")
    highest = [f"{run.label} {human(first.totals[run.peak])}" for run in runs if run.label][:DESCRIBED]
    return " ".join([*sentences, *(["Highest by instant: " + ", ".join(highest) + "."] if highest else [])])


def _at(instant: str) -> str:
    return f" at {instant}" if instant else ""


def _capacity(timelines: Sequence[Timeline]) -> int | None:
    return next((one.capacity_bytes for one in timelines if one.capacity_bytes is not None), None)


def _highest(timelines: Sequence[Timeline]) -> int:
    return max(1, *(one.peak_bytes for one in timelines))


def source_name(first: Timeline, other: Timeline) -> str:
    """Return what tells another timeline from the first: its source, with its title where that differs, too."""
    return other.source if other.title == first.title else f"{other.source}, {other.title}"


def _heading(first: Timeline, capacity: int | None, width: float) -> tuple[Markup, int]:
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


def _legend(timelines: Sequence[Timeline], width: float, top: float) -> tuple[Markup, int]:
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
        # The outline of the highest is its own colour, so that a peak of one event stays visible.
        own = {"stroke": fill} if index == len(timeline.groups) - 1 else {}
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
    words = element(
        "text",
        f"device {human(capacity)}",
        class_="warn",
        x=frame.right - TICK if early else frame.left + TICK,
        y=y - TICK,
        text_anchor="end" if early else "start",
    )
    yield words


def _outlines(frame: Frame, timelines: Sequence[Timeline], edges: Sequence[Sequence[float]]) -> Iterator[Markup]:
    """The totals of further timelines, over a halo that parts them from any colour below."""
    for index, (timeline, own) in enumerate(zip(timelines[1:], edges[1:], strict=True)):
        line = _steps(frame, timeline.totals, own)
        yield element("path", class_="halo", d=line)
        yield element("path", class_=f"line dash{index}", d=line)


def _peak(frame: Frame, first: Timeline, edges: Sequence[float]) -> Iterator[Markup]:
    """A pin in the highest point, its bytes and instant in the strip above the plot."""
    x, y = frame.x((edges[first.peak] + edges[first.peak + 1]) / 2), frame.y(first.peak_bytes)
    text = f"peak {human(first.peak_bytes)}{_at(first.points[first.peak].instant)}"
    half = BOLD * text_width(text, FONT) / 2
    middle = min(max(x, PAD + half), frame.right - half)
    yield element("path", class_="pin", d=Markup(f"M{number(x)} {number(frame.top - TICK * 2)}V{number(y)}"))
    yield element("circle", class_="dot", cx=x, cy=y, r=4)
    yield element("text", text, class_="strong", text_anchor="middle", x=middle, y=frame.top - FONT)
