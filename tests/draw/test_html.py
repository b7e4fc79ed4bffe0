"""The page: it stands alone, runs nothing but its own script, and says the same as the drawing."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import pytest

from oomph.draw import prepared
from oomph.draw.html import draw_html
from oomph.timeline import Timeline
from tests.draw.samples import hostile, step


class Page(HTMLParser):
    """Reads elements as a browser does: a script ends at the first </script>."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.cells: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open in self.raw:
            self.raw[self._open].append(data)
        if self._open in ("td", "th"):
            self.cells.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.raw["script"][0])


def page(*timelines: Timeline) -> Page:
    return Page(draw_html(prepared(timelines)))


@pytest.mark.parametrize("timeline", [step(), hostile()], ids=["step", "hostile"])
def test_nothing_comes_from_outside(timeline: Timeline) -> None:
    """No element that loads, no address in a style or attribute."""
    found = page(timeline, timeline)
    assert not {"link", "img", "iframe", "object", "embed", "base", "image", "use"} & {tag for tag, _ in found.elements}
    for _, attributes in found.elements:
        assert not {"src", "href", "xlink:href", "style", "srcdoc", "action"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert not any(re.search(r"url\(|@import|https?:", style) for style in found.raw["style"])


def test_the_policy_lets_only_the_page_s_own_script_and_styles_in() -> None:
    """By their hashes, and everything else not at all."""
    found = page(step())
    (policy,) = (a["content"] or "" for tag, a in found.elements if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    code = [found.raw["script"][-1], *found.raw["style"]]
    assert allowed == {b64encode(sha256(text.encode()).digest()).decode() for text in code}
    assert "unsafe" not in policy


def test_hostile_names_stay_text() -> None:
    """The data cannot end its element, and no script but ours is there."""
    found = page(hostile(), hostile())
    kinds = [attributes.get("type") for tag, attributes in found.elements if tag == "script"]
    assert kinds == ["application/json", None]
    assert "<" not in found.raw["script"][0]
    assert found.data["timelines"][0]["groups"][0].startswith("</script>")


def test_the_data_is_the_timeline() -> None:
    """Every number the script shows is one of the timeline's: the script adds up nothing."""
    (line,) = prepared([step()])
    data = page(step()).data
    (first,) = data["timelines"]
    assert first["totals"] == list(line.totals)
    assert first["bytes"] == [list(point.groups) for point in line.points]
    assert [data["words"][index] for index in first["instants"]] == [point.instant for point in line.points]
    assert [[data["words"][index] for index in one] for one in first["top"]] == [list(p.top) for p in line.points]
    assert first["peak"] == line.peak
    assert len(first["edges"]) == len(line.points) + 1


def test_the_table_says_every_instant() -> None:
    """Rows of layers first, then every instant with its peak, and the trace's beside it."""
    cells = page(step(), step(source="trace")).cells
    assert cells[:3] == ["instant", "estimate", "trace"]
    assert set(cells) >= {"layers 0–31 forward", "layers 31–0 backward"}
    assert set(cells) >= {one.name for one in step().instants()}
    at = cells.index("optimizer step")
    assert cells[at + 1 : at + 4] == ["74.79 GiB", "74.79 GiB", "14.96 GiB"]


def test_it_can_be_used_with_keys_and_told_aloud() -> None:
    """A slider with a name, bounds and a text for its value; tables with headers; a language."""
    found = page(step()).elements
    (slider,) = (attributes for _, attributes in found if attributes.get("role") == "slider")
    assert slider["tabindex"] == "0"
    assert slider["aria-label"]
    assert slider["aria-valuetext"] == "optimizer step, 74.79 GiB"
    assert ("html", {"lang": "en"}) in found
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_size_is_bounded() -> None:
    """A page of 80 layers can be sent by mail."""
    assert len(draw_html(prepared([step(80)])).encode()) < 500_000
