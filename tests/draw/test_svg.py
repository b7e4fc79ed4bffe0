"""The SVG: well-formed, complete, bounded, and deaf to hostile names."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.draw import MAX_TIMELINES, prepared, write
from oomph.draw.scale import labels, ticks
from oomph.draw.svg import draw_svg
from oomph.errors import SourceError, UsageError
from oomph.timeline import Point, Timeline
from oomph.units import GIB
from tests.draw.samples import hostile, step

SVG = "{http://www.w3.org/2000/svg}"
KNOWN = {"svg", "title", "desc", "style", "rect", "text", "path", "g", "circle"}
LARGEST = 200_000  # bytes of a drawing


def drawn(*timelines: Timeline, width: float = 960) -> ElementTree.Element:
    """Draw and parse."""
    return ElementTree.fromstring(draw_svg(prepared(timelines), width).markup)


def texts(root: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def test_a_step_says_its_peak() -> None:
    """In the drawing and in the text for screen readers: 74.79 GiB as traced, at the optimizer's step."""
    root = drawn(step())
    assert "peak 74.79 GiB at optimizer step" in texts(root)
    assert "Peak 74.79 GiB at optimizer step: weights 14.96 GiB" in (root.findtext(f"{SVG}desc") or "")
    assert root.findtext(f"{SVG}title") == "llama-3-8b: training step, batch 1 x 2048"
    assert root.get("role") == "img"


def test_the_labels_of_layers_are_one() -> None:
    """32 forwards and 32 backwards become two labels; a tick for each stays."""
    root = drawn(step())
    assert {"layers 0–31 forward", "layers 31–0 backward"} <= set(texts(root))
    assert not any(re.search(r"layer \d+ ", text) for text in texts(root))
    (axis,) = (one.get("d", "") for one in root.iter(f"{SVG}path") if one.get("class") == "axis")
    assert axis.count("v4") == len(step().instants())


def test_the_legend_says_what_the_peak_is_made_of() -> None:
    """Each group with its bytes: 14.96 GiB of bf16 parameters, as large gradients and temporaries, two states."""
    said = texts(drawn(step()))
    for group, gib in (("weights", "14.96"), ("optimizer", "29.92"), ("gradients", "14.96"), ("temporaries", "14.96")):
        assert f"{group} {gib} GiB" in said


@pytest.mark.parametrize("width", [360, 680, 960])
def test_paths_run_from_left_to_right(width: float) -> None:
    """The x of areas and lines never falls, but for an area's way back, and all lies inside the drawing."""
    root = drawn(step(), step(source="trace"), width=width)
    paths = [one.get("d", "") for one in root.iter(f"{SVG}path") if one.get("fill") or "dash" in one.get("class", "")]
    assert len(paths) == len(step().groups) + 2  # the line and its sample in the legend
    for path in paths:
        xs = [float(x) for x in re.findall(r"[MH]([\d.]+)", re.sub(r"H[\d.]+Z$", "", path))]
        assert all(a <= b for a, b in pairwise(xs))
        assert all(0 <= x <= width for x in xs)


def test_a_peak_above_the_device_is_said() -> None:
    """A capacity below the peak is a line with a zone above it, and words."""
    points = (Point("a", (3 * GIB,)), Point("b", (6 * GIB,)))
    root = drawn(Timeline("t", "estimate", ("weights",), points, 4 * GIB))
    assert "estimate · peak 6.00 GiB · 2.00 GiB over the device's 4.00 GiB" in texts(root)
    (zone,) = (one for one in root.iter(f"{SVG}rect") if one.get("class") == "over")
    (line,) = (one for one in root.iter(f"{SVG}path") if one.get("class") == "capacity")
    bottom = float(zone.get("y", 0)) + float(zone.get("height", 0))
    assert f"{bottom:.1f}" == f"{float(re.findall(r' ([0-9.]+)H', line.get('d', ''))[0]):.1f}"


def test_a_far_capacity_does_not_flatten_the_drawing() -> None:
    """It is told in words only."""
    root = drawn(Timeline("t", "estimate", ("weights",), (Point("a", (GIB,)),), 80 * GIB))
    assert not [one for one in root.iter(f"{SVG}rect") if one.get("class") == "over"]
    assert any("79.00 GiB below the device's 80.00 GiB" in text for text in texts(root))


def test_hostile_names_stay_text() -> None:
    """No element, attribute or style but our own; no control characters; not longer than their place."""
    text = draw_svg(prepared([hostile(), hostile()])).markup
    root = ElementTree.fromstring(text)
    assert {one.tag.removeprefix(SVG) for one in root.iter()} == KNOWN
    assert len(list(root.iter(f"{SVG}style"))) == 1
    assert not any(name.startswith("on") for one in root.iter() for name in one.attrib)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert max(map(len, texts(root))) < 200


@pytest.mark.parametrize("timelines", [(step(80),), (hostile(),) * MAX_TIMELINES], ids=["80 layers", "hostile"])
def test_size_is_bounded(timelines: tuple[Timeline, ...]) -> None:
    """However many events, instants and letters."""
    assert len(draw_svg(prepared(timelines)).markup.encode()) < LARGEST


def test_the_largest_drawing_is_bounded() -> None:
    """Twelve groups that all move at every point, with three lines over them."""
    points = tuple(Point(str(i % 7), tuple((i * 7919 * (g + 1)) % GIB for g in range(12))) for i in range(5000))
    busy = Timeline("t", "trace", tuple(f"group {g}" for g in range(12)), points)
    assert len(draw_svg(prepared([busy] * MAX_TIMELINES)).markup.encode()) < LARGEST


def test_nothing_comes_from_outside() -> None:
    """No link, import, font or image."""
    text = draw_svg(prepared([step()])).markup.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"href|url\(|@import|@font-face|https?:|<image", text)


def test_drawing_twice_gives_the_same() -> None:
    """Byte for byte, so that a committed drawing can be checked."""
    assert draw_svg(prepared([step()])).markup == draw_svg(prepared([step()])).markup


def test_another_timeline_is_a_line_with_its_source() -> None:
    """Dashed, in the legend under its source and peak."""
    root = drawn(step(), step(source="trace"))
    assert "trace 74.79 GiB" in texts(root)
    assert sum(one.get("class") == "line dash0" for one in root.iter(f"{SVG}path")) == 2


@pytest.mark.parametrize("n_bytes", [0, 1, 700, 5 * 2**20])
def test_little_memory_has_a_scale_too(n_bytes: int) -> None:
    """Down to nothing at all."""
    assert texts(drawn(Timeline("t", "measured", ("all",), (Point("", (n_bytes,)),))))


@given(st.integers(1, 2**50))
def test_ticks_are_few_and_even(most_bytes: int) -> None:
    """From zero up to the largest step that fits; between three and eight of them on any axis of some size."""
    scale = [n_bytes for n_bytes, _ in ticks(most_bytes)]
    assert scale[0] == 0
    assert scale[-1] <= most_bytes
    assert len(scale) <= 7
    assert len(scale) >= 3 or most_bytes < 1024
    assert len({b - a for a, b in pairwise(scale)}) <= 2  # a tenth of a GiB is no whole number of bytes


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("ab c", min_size=1, max_size=30), st.integers(1, 200)), min_size=1, max_size=30))
def test_labels_never_touch(stretches: list[tuple[str, int]]) -> None:
    """Words of a row keep apart, stay on the axis, and no line of a lower row crosses the words of a higher one."""
    total, at, placed = sum(wide for _, wide in stretches), 0, []
    for text, wide in stretches:
        placed.append((text, 900 * at / total, 900 * (at + wide) / total))
        at += wide
    found = labels(placed, 12, 0, 900)
    for one in found:
        assert one.middle - one.wide / 2 >= -1e-6
        assert one.middle + one.wide / 2 <= 900 + 1e-6
        for other in found:
            if one is not other and one.row == other.row:
                assert abs(one.middle - other.middle) >= (one.wide + other.wide) / 2
            if other.row > one.row:
                assert abs(other.x - one.middle) >= one.wide / 2


def test_files_are_chosen_by_suffix(tmp_path: Path) -> None:
    """An unknown suffix is refused with those that are known, in any case of letters."""
    write(tmp_path / "a.SVG", [step()])
    assert (tmp_path / "a.SVG").read_text(encoding="utf-8").startswith("<svg ")
    with pytest.raises(UsageError, match=r"\.svg, \.png, \.html"):
        write(tmp_path / "a.gif", [step()])


def test_a_path_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """As a sentence."""
    with pytest.raises(SourceError, match="cannot be written"):
        write(tmp_path / "nowhere" / "a.svg", [step()])


def test_more_than_can_be_told_apart_is_refused() -> None:
    """And nothing at all is, too."""
    for timelines in ([], [step()] * (MAX_TIMELINES + 1)):
        with pytest.raises(UsageError):
            prepared(timelines)
