"""A map of contexts and requests as SVG, PNG or a page: a cell for each pair, its colour whether it fits, its shade how
much of the room it takes. A drawing sees nothing but `ServeMap`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from oomph.draw import MAX_NAME, MAX_TITLE, SUFFIXES, save
from oomph.draw.markup import Markup, clean, element, joined, text_width
from oomph.draw.style import FONT, HEAD, STYLE
from oomph.draw.words import LINE, PAD
from oomph.engines.maps import STATUSES, ServeMap
from oomph.errors import UsageError

CELL_WIDTH, CELL_HEIGHT = 52.0, 26.0
MOST_DRAWN = 64  # rows or columns: more are no map but a smear
LEAST_SHADE = 0.15
WORDS = {"fits": "fits", "tight": "tight: only if nothing takes more than expected", "too_big": "does not fit"}
WORDS |= {"refused": "not served by the engine's flags"}
# Of Okabe and Ito's palette, as in colours.py: they differ in lightness too.
FILLS = {"fits": "#0072b2", "tight": "#e69f00", "too_big": "#d55e00", "refused": "#999999"}
SHADES = {"tight": 0.75, "too_big": 0.45, "refused": 0.25}


def write_map(path: Path, found: ServeMap) -> None:
    """Draw a map into a file; raises OomphError as `oomph.draw.write` does, and for more than can be told apart."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        shown = clean(path.name, MAX_NAME)
        raise UsageError(f"{shown!r} names no kind of drawing.", f"Let it end in {', '.join(SUFFIXES)}.")
    if max(len(found.contexts), len(found.concurrencies)) > MOST_DRAWN:
        raise UsageError(f"A drawing tells {MOST_DRAWN} rows and columns apart.", "Ask for fewer, or for --json.")
    markup = draw_map(found)
    if suffix == ".png":
        from oomph.draw.png import png

        save(path, png(markup))
        return
    save(path, (markup if suffix == ".svg" else _page(found, markup)).encode())


def draw_map(found: ServeMap) -> Markup:
    """Return a map as SVG."""
    names = [f"{context:,}" for context in found.contexts]
    left = PAD + max(text_width(name, FONT) for name in [*names, "tokens"]) + PAD / 2
    top = PAD + HEAD + LINE * 4
    width = max(left + CELL_WIDTH * len(found.concurrencies) + PAD, PAD * 2 + text_width(_title(found), HEAD))
    height = top + CELL_HEIGHT * len(names) + LINE + PAD
    body = joined(
        element("rect", class_="page", width=width, height=height),
        element("text", _title(found), class_="title", x=PAD, y=PAD + HEAD),
        *_key(found, PAD + HEAD + LINE * 1.5),
        element("text", "tokens", class_="soft", text_anchor="end", x=left - PAD / 2, y=top - LINE / 2),
        *_columns(found, left, top - LINE / 2),
        *_rows(found, names, left, top),
        element("text", "requests at a time, across; tokens of each, down", class_="soft", x=left, y=height - PAD / 2),
    )
    return element(
        "svg", element("title", _title(found)), element("style", Markup(STYLE)), body, width=width, height=height,
        viewBox=f"0 0 {width:g} {height:g}", xmlns="http://www.w3.org/2000/svg", role="img", class_="oomph",
    )  # fmt: skip


def _title(found: ServeMap) -> str:
    job, model, device = found.ledger.job, found.ledger.model, found.ledger.device or {}
    where = (
        ""
        if not device
        else f" on {device['count']} x {device['name']}"
        if device["count"] > 1
        else f" on {device['name']}"
    )
    return clean(f"{model['name'] or model['model_type']} in {job['engine']}{where}", MAX_TITLE)


def _key(found: ServeMap, y: float) -> Iterator[Markup]:
    """Yield what the colours mean, of those that are there."""
    there = {STATUSES[cell] for row in found.status for cell in row}
    x = PAD
    for status in STATUSES:
        if status in there:
            yield element("rect", x=x, y=y - FONT + 2, width=FONT, height=FONT, fill=FILLS[status], fill_opacity=0.75)
            yield element("text", WORDS[status], class_="soft", x=x + FONT * 1.5, y=y)
            x += FONT * 3 + text_width(WORDS[status], FONT)


def _columns(found: ServeMap, left: float, y: float) -> Iterator[Markup]:
    for at, concurrency in enumerate(found.concurrencies):
        middle = left + CELL_WIDTH * (at + 1 / 2)
        yield element("text", f"{concurrency:,}", class_="soft", text_anchor="middle", x=middle, y=y)


def _rows(found: ServeMap, names: list[str], left: float, top: float) -> Iterator[Markup]:
    """Yield the cells with their words, and a sentence for the pointer and for screen readers in each."""
    for row, name in enumerate(names):
        y = top + CELL_HEIGHT * row
        middle = y + CELL_HEIGHT / 2 + FONT / 3
        yield element("text", name, class_="soft", text_anchor="end", x=left - PAD / 2, y=middle)
        for column, cell in enumerate(found.status[row]):
            x, status, share = left + CELL_WIDTH * column, STATUSES[cell], found.share[row][column]
            shade = SHADES.get(status, LEAST_SHADE + (SHADES["tight"] - LEAST_SHADE) * min(share, 1))
            said = f"{name} tokens x {found.concurrencies[column]:,}: {WORDS[status]}, {percent(share)} of the room"
            box = {"width": CELL_WIDTH - 1, "height": CELL_HEIGHT - 1}
            tip = element("title", said)
            yield element("rect", tip, x=x, y=y, fill=FILLS[status], fill_opacity=f"{shade:.2f}", **box)
            yield element(
                "text", percent(share), text_anchor="middle", x=x + CELL_WIDTH / 2, y=middle, pointer_events="none"
            )


MOST_PERCENT = 999


def percent(share: float) -> str:
    """Return how much of the room that is, in at most five letters.

    >>> percent(0.125), percent(0.0004), percent(20), percent(float("inf"))
    ('12%', '<1%', '>999%', '>999%')
    """
    if share * 100 > MOST_PERCENT:
        return f">{MOST_PERCENT}%"
    return "<1%" if 0 < share * 100 < 1 else f"{int(share * 100)}%"


def _page(found: ServeMap, markup: Markup) -> str:
    """Return a page around a drawing; nothing is loaded and nothing runs."""
    policy = element(
        "meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"
    )
    view = element("meta", name_="viewport", content="width=device-width")
    head = element("head", element("meta", charset="utf-8"), policy, view, element("title", _title(found)))
    return f"<!doctype html>\n{element('html', head, element('body', markup), lang='en')}\n"
