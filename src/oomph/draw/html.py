"""A timeline as a page: one file that needs no network, with what is alive at the pointer and a table of the same.

Three drawings of the same data, so that words stay readable in windows of any width. Nothing may be loaded and only the
page's own script may run: its hash stands in the content security policy.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

from oomph.draw.colours import colours
from oomph.draw.markup import Markup, element
from oomph.draw.scale import spans
from oomph.draw.style import STYLE
from oomph.draw.svg import Frame, draw_svg
from oomph.draw.words import source_name
from oomph.timeline import Instant, Timeline, aligned, numbered
from oomph.units import human

DRAWINGS = {"narrow": (360, 540), "middle": (680, 500), "wide": (1080, 560)}  # pixels; page.css says which is shown
EDGE_DIGITS = 5  # of an edge's place between 0 and 1
HINT = "Point, touch or use the arrow keys: what is alive there. Page up and down: instants. p: the peak."


def draw_html(timelines: Sequence[Timeline]) -> str:
    """Return the page. Names must be clean and points few."""
    first = timelines[0]
    drawings = {name: draw_svg(timelines, *size, name=name) for name, size in DRAWINGS.items()}
    fills = "".join(f".fill{index}{{background:{fill}}}\n" for index, fill in enumerate(colours(first.groups)))
    style, script = _resource("page.css") + fills, _resource("page.js")
    pointer = element(
        "div",
        id="pointer",
        role="slider",
        tabindex=0,
        aria_label="Place in the job",
        aria_valuemin=0,
        aria_valuemax=len(first.points) - 1,
        aria_valuenow=first.peak,
        aria_valuetext=f"{first.points[first.peak].instant or 'peak'}, {human(first.peak_bytes)}",
    )
    chart = element(
        "div",
        *(element("div", drawing.markup, class_=f"drawing {name}") for name, drawing in drawings.items()),
        element("div", id="cursor", hidden="hidden"),
        pointer,
        id="chart",
    )
    body = element(
        "body",
        element(
            "main",
            element("div", chart, element("div", id="readout", hidden="hidden"), id="figure"),
            element("p", HINT, class_="hint"),
            *_tables(timelines),
        ),
        element(
            "script",
            _data(timelines, [drawing.frame for drawing in drawings.values()]),
            type="application/json",
            id="data",
        ),
        element("script", Markup(script)),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy([style, STYLE], script)),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("title", first.title),
        element("style", Markup(style)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _resource(name: str) -> str:
    return (files("oomph.draw") / name).read_text(encoding="utf-8")


def _policy(styles: Iterable[str], script: str) -> str:
    """Return a policy under which nothing is loaded and nothing else runs."""
    hashes = " ".join(map(_hash, styles))
    return f"default-src 'none'; style-src {hashes}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _data(timelines: Sequence[Timeline], frames: Iterable[Frame]) -> Markup:
    """Return what the script reads, as JSON in which nothing can end the element it stands in."""
    words: dict[str, int] = {}  # each text once
    data = {
        "frames": [_shares(frame) for frame in frames],
        "timelines": [
            _line(timelines[0], one, edges, words) for one, edges in zip(timelines, aligned(timelines), strict=True)
        ],
        "words": list(words),
    }
    text = json.dumps(data, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _shares(frame: Frame) -> dict[str, float]:
    """Return where the plot lies, as shares of the drawing."""
    return {
        "left": round(frame.left / frame.width, EDGE_DIGITS),
        "right": round(frame.right / frame.width, EDGE_DIGITS),
        "top": round(frame.top / frame.height, EDGE_DIGITS),
        "bottom": round(frame.bottom / frame.height, EDGE_DIGITS),
    }


def _line(first: Timeline, line: Timeline, edges: Sequence[float], words: dict[str, int]) -> dict[str, Any]:
    """Return one timeline; of further ones only the totals."""
    known = {
        "name": source_name(first, line),
        "peak": line.peak,
        "totals": line.totals,
        "edges": [round(edge, EDGE_DIGITS) for edge in edges],
    }
    if line is not first:
        return known
    return known | {
        "groups": line.groups,
        "bytes": [point.groups for point in line.points],
        "instants": [words.setdefault(point.instant, len(words)) for point in line.points],
        "top": [[words.setdefault(text, len(words)) for text in point.top] for point in line.points],
    }


def _tables(timelines: Sequence[Timeline]) -> Iterable[Markup]:
    """The same in numbers: what neighbouring instants take at their highest, then every one."""
    first = timelines[0]
    runs = spans(first)
    together = [(run.label or "the whole", run.peak, run.instants) for run in runs]
    yield element("section", element("h2", "Peaks by instant"), _table(timelines, together))
    if any(len(run.instants) > 1 for run in runs):
        each = [(instant.name, instant.peak, (instant,)) for instant in first.instants()]
        summary = element("summary", f"All {len(each)} instants")
        yield element("section", element("details", summary, _table(timelines, each)))


def _table(timelines: Sequence[Timeline], lines: Sequence[tuple[str, int, tuple[Instant, ...]]]) -> Markup:
    """A row for each (label, index of its peak, instants it stands for), a column for each group and timeline."""
    first, *others = timelines
    number = {instant: key for key, instant in numbered(first)}
    peaks = [{key: other.totals[instant.peak] for key, instant in numbered(other)} for other in others]
    names = ["instant", first.source, *(source_name(first, other) for other in others), *first.groups]
    rows = []
    for label, peak, instants in lines:
        theirs = [max((found.get(number[one], 0) for one in instants), default=0) for found in peaks]
        values = [first.totals[peak], *theirs, *first.points[peak].groups]
        cells = [element("td", human(n_bytes) if n_bytes else "–") for n_bytes in values]
        style = {"class_": "peak"} if peak == first.peak else {}
        rows.append(element("tr", element("th", label, scope="row"), *cells, **style))
    head = element("tr", *(element("th", name, scope="col") for name in names))
    table = element("table", element("thead", head), element("tbody", *rows))
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label="Peaks by instant")
