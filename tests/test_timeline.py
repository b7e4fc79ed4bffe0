"""Timelines: what an event stream becomes, what thinning keeps, how timelines are laid over each other."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.errors import UsageError
from oomph.stream import Event, Label, Stream
from oomph.timeline import Point, Timeline, aligned, from_stream, thinned

NAMES = st.sampled_from(["", "forward", "layer 0", "layer 1", "loss", "step"])
POINTS = st.lists(st.builds(Point, NAMES, st.tuples(st.integers(0, 50), st.integers(0, 50))), min_size=1, max_size=80)
TIMELINES = POINTS.map(lambda points: Timeline("t", "estimate", ("weights", "activations"), tuple(points)))


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Allocations and frees in any order, with marks anywhere."""
    events: list[Event] = []
    alive: dict[int, int] = {}
    for ordinal, (n_bytes, freed) in enumerate(draw(st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 3))))):
        events.append(Event(ordinal, n_bytes))
        alive[ordinal] = n_bytes
        for _ in range(min(freed, len(alive))):
            gone = draw(st.sampled_from(sorted(alive)))
            events.append(Event(gone, -alive.pop(gone)))
    places = sorted(draw(st.lists(st.integers(0, len(events)), max_size=8)))
    return Stream(events, [(place, draw(NAMES)) for place in places])


def line(*heights: int, names: str | None = None, source: str = "estimate") -> Timeline:
    """A timeline of one group with a letter for each point's instant."""
    letters = names or " " * len(heights)
    return Timeline("t", source, ("all",), tuple(Point(a.strip(), (h,)) for a, h in zip(letters, heights, strict=True)))


def is_part(part: tuple[Point, ...], whole: tuple[Point, ...]) -> bool:
    """Tell whether the points of one are points of the other, in order."""
    rest = iter(whole)
    return all(any(point is other for other in rest) for point in part)


@given(TIMELINES, st.integers(1, 90))
def test_thinning_keeps_points_as_they_are(whole: Timeline, most: int) -> None:
    """At most so many, in order, none made up, the first peak among them."""
    thin = thinned(whole, most)
    assert 1 <= len(thin.points) <= most
    assert is_part(thin.points, whole.points)
    assert thin.points[thin.peak] is whole.points[whole.peak]


@given(TIMELINES, st.integers(0, 10))
def test_the_peak_of_every_instant_survives(whole: Timeline, spare: int) -> None:
    """Exactly and under its name, as long as there is a point for each instant."""
    instants = whole.instants()
    thin = thinned(whole, len(instants) + spare)
    peaks = [whole.points[one.peak] for one in instants]
    assert [thin.points[one.peak] for one in thin.instants()] == peaks
    assert is_part(tuple(peaks), thin.points)


def test_thinning_keeps_the_ups_and_downs_within_an_instant() -> None:
    """A comb of 1000 teeth stays a comb: it does not become its envelope."""
    thin = thinned(line(*([0, 9] * 1000)), 100)
    steps = [a.total_bytes != b.total_bytes for a, b in pairwise(thin.points)]
    assert sum(steps) > 45


@given(TIMELINES)
def test_instants_are_all_points_once(whole: Timeline) -> None:
    """Stretches follow each other without gaps, neighbours have other names, each knows its peak."""
    instants = whole.instants()
    assert [one.first for one in instants] == [0, *(one.end for one in instants[:-1])]
    assert instants[-1].end == len(whole.points)
    assert all(a.name != b.name for a, b in pairwise(instants))
    assert all(whole.totals[one.peak] == max(whole.totals[one.first : one.end]) for one in instants)


@given(streams(), st.integers(1, 40))
def test_a_stream_keeps_its_peak(stream: Stream, most: int) -> None:
    """However thin: the largest height is the stream's own, and every height one that the stream had."""
    made = from_stream(stream, lambda ordinal, _: "ab"[ordinal % 2], title="t", source="trace", most=most)
    assert made.peak_bytes == stream.peak_bytes
    assert len(made.points) <= most
    assert set(made.totals) <= {0, *stream.live()}


def test_a_stream_by_hand() -> None:
    """Groups, instants and names of what is largest, worked out by hand: bytes are rounded to 512 each."""
    stream = Stream(
        [Event(0, 1000), Event(1, 600), Event(2, 600), Event(1, -600), Event(2, -600)],
        [(0, "parameters"), (1, "forward"), (4, "nothing"), (4, "end")],
        {
            0: Label("parameter", (500,), "bf16", "parameters"),
            1: Label("mm", (300,), "bf16", "forward"),
            2: Label("mm", (300,), "bf16", "forward"),
        },
    )
    made = from_stream(
        stream, lambda _, label: "weights" if label and label.op == "parameter" else "mine", title="t", source="trace",
        start=1,
    )  # fmt: skip
    assert made.groups == ("weights", "mine")
    assert [(point.instant, point.groups) for point in made.points] == [
        ("forward", (1024, 0)), ("forward", (1024, 1024)), ("forward", (1024, 2048)), ("forward", (1024, 1024)),
        ("end", (1024, 1024)), ("end", (1024, 0)),
    ]  # fmt: skip
    assert made.points[2].top == ("2 x mm [300] bf16: 1.17 KiB",)
    assert made.points[0].top == made.points[-1].top == ()


def test_a_stream_may_stop_early() -> None:
    """What comes after `stop` is not drawn, an instant that begins there is its last height."""
    stream = Stream([Event(0, 512), Event(1, 512), Event(0, -512)], [(0, "a"), (2, "end")])
    made = from_stream(stream, lambda *_: "all", title="t", source="trace", stop=2)
    assert [(point.instant, point.total_bytes) for point in made.points] == [
        ("a", 0), ("a", 512), ("a", 1024), ("end", 1024),
    ]  # fmt: skip


def test_an_empty_stream_is_a_timeline_of_nothing() -> None:
    """One point of zero bytes."""
    made = from_stream(Stream(), lambda *_: "all", title="t", source="measured")
    assert made.totals == (0,)


@given(st.lists(TIMELINES, min_size=1, max_size=3))
def test_edges_never_fall(lines: list[Timeline]) -> None:
    """Whatever the names: edges are in order, one more than points; the first timeline reaches from 0 to 1."""
    assert (aligned(lines)[0][0], aligned(lines)[0][-1]) == (0, 1)
    for one, edges in zip(lines, aligned(lines), strict=True):
        assert len(edges) == len(one.points) + 1
        assert 0 <= edges[0] <= edges[-1] <= 1
        assert all(a <= b for a, b in pairwise(edges))


def test_common_instants_are_laid_over_each_other() -> None:
    """A common name begins and ends at the same place; what only one has lies in between."""
    base, other = line(1, 1, 1, 1, names="aabb"), line(1, 1, 1, 1, 1, 1, names="axxxbb")
    assert aligned([base, other])[1] == (0, 0.5, 0.5, 0.5, 0.5, 0.75, 1)


def test_gaps_are_filled_proportionally() -> None:
    """Other names between two common ones share the place that the first timeline has there."""
    base, other = line(1, 1, 1, 1, names="axxb"), line(1, 1, 1, 1, 1, 1, names="ayyyyb")
    assert aligned([base, other])[1] == (0, 0.25, 0.375, 0.5, 0.625, 0.75, 1)


def test_repeated_instants_are_counted() -> None:
    """The second forward of a step with accumulation lies over the second forward."""
    base, other = line(1, 1, 1, 1, names="abab"), line(1, 1, 1, 1, 1, names="aabab")
    assert aligned([base, other])[1] == (0, 0.125, 0.25, 0.5, 0.75, 1)


def test_names_in_another_order_are_left_out() -> None:
    """The longest common order counts, not the first name that is found."""
    base, other = line(1, 1, 1, 1, names="abcd"), line(1, 1, 1, 1, names="dabc")
    assert aligned([base, other])[1] == (0, 0, 0.25, 0.5, 0.75)


def test_a_part_of_a_step_covers_its_part() -> None:
    """What begins and ends with instants from the middle is not stretched over the rest."""
    assert aligned([line(1, 1, 1, 1, names="abcd"), line(1, 1, names="bc")])[1] == (0.25, 0.5, 0.75)


def test_a_snapshot_without_instants_is_laid_over_the_whole() -> None:
    """Evenly."""
    assert aligned([line(1, 1, names="ab"), line(1, 1, 1, 1)])[1] == (0, 0.25, 0.5, 0.75, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": "guess"},
        {"points": ()},
        {"groups": (), "points": (Point("a", ()),)},
        {"points": (Point("a", (1,)),)},
        {"points": (Point("a", (1, -1)),)},
        {"capacity_bytes": 0},
    ],
    ids=["source", "no points", "no groups", "too few", "negative", "capacity"],
)
def test_what_is_no_timeline_is_refused(wrong: dict) -> None:
    """With a sentence, not with a traceback out of the drawing."""
    good = {"title": "t", "source": "trace", "groups": ("a", "b"), "points": (Point("a", (1, 2)),)}
    with pytest.raises(UsageError):
        Timeline(**{**good, **wrong})


def test_every_group_of_a_ledger_has_its_place() -> None:
    """What a ledger can hold can be drawn."""
    from oomph.ledger import GROUPS
    from oomph.timeline import STACKED

    assert set(STACKED) == set(GROUPS)
