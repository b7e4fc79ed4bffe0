"""Recipes: what is alive adds up to the heights, by class and by group, and stretches are named as a full play's."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.fold import Classes
from oomph.job import TrainJob
from oomph.model import Model
from oomph.peak import GROUP_OF, REST, Place, alive_at, by_group, highest_place, start_of
from oomph.play import train_step
from oomph.recipe import Change, Part, Stretch, highest, name_of
from oomph.steps import Step, step
from oomph.structure import decoder_stack
from oomph.tape.sizes import number
from tests.test_fold import llama_8b, random_case

SEEDS = range(16)
GROUPS = sorted({*GROUP_OF.values(), REST})
Kind = tuple[int, str, tuple[int, ...], str, str, str]  # bytes, operation, shape, dtype, scope, why


def places(one: Step) -> list[tuple[Place, int]]:
    """Every height of a step with the bytes alive there; of repeated stretches the first, second and last."""
    found = []
    for at, stretch in enumerate(one.stretches):
        for repetition in sorted({0, min(1, stretch.repeats - 1), stretch.repeats - 1}):
            for top, height in enumerate((stretch.start, *stretch.tops), -1):
                found.append((Place(at, top, repetition), height + repetition * (stretch.end - stretch.start)))
    return found


def classes_alive(model: Model, job: TrainJob) -> Counter[Kind]:
    """How many tensors of each class a full play has at its first peak."""
    played = train_step(model, job)
    recorder = played.recorder
    names = Classes(decoder_stack(model)[0])
    alive: set[int] = set()
    for event in recorder.events[: played.live.index(played.peak)]:
        if event >= 0:
            alive.add(event)
        else:
            alive.discard(~event)
    found: Counter[Kind] = Counter()
    for at in alive:
        one = recorder.allocations[at]
        shape = tuple(map(number, one.shape))
        key = (number(one.n_bytes), one.op, shape, one.dtype, names.scope(one.scope), recorder.why.get(at, ""))
        found[key] += 1
    return found


def classes_at_peak(one: Step) -> Counter[Kind]:
    """The same of a step made of a recipe."""
    found: Counter[Kind] = Counter()
    for each in alive_at(one, highest_place(one)):
        kind = each.kind
        shape = each.shape
        found[one.sums.number(kind.n_bytes), kind.op, shape, kind.dtype, kind.scope, kind.why] += each.count
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_alive_adds_up_to_every_height(seed: int) -> None:
    """At the peak and at every other height the tensors alive have the bytes of the height, none fewer than none."""
    model, job, _ = random_case(seed)
    one = step(model, job)
    peak = alive_at(one, highest_place(one))
    assert sum(each.n_bytes for each in peak) == one.peak
    for place, height in places(one):
        alive = alive_at(one, place)
        assert sum(each.n_bytes for each in alive) == height, place
        assert all(each.count > 0 for each in alive), place


@pytest.mark.parametrize("seed", SEEDS)
def test_classes_at_the_peak_are_those_of_the_full_play(seed: int) -> None:
    """Folding loses no tensor: each class is alive as often as when every layer is played."""
    model, job, _ = random_case(seed)
    one = step(model, job)
    assert classes_at_peak(one) == classes_alive(model, job)


@pytest.mark.parametrize("job", [TrainJob(1, 512), TrainJob(2, 512, checkpointing="non-reentrant", optimizer="none")])
def test_classes_of_a_deep_model(job: TrainJob) -> None:
    """80 layers folded from three: the same classes, the same numbers of each."""
    model = llama_8b(80)
    assert classes_at_peak(step(model, job)) == classes_alive(model, job)


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_add_up_to_the_total(seed: int) -> None:
    """The heights of all groups together are the step's, stretch by stretch."""
    model, job, _ = random_case(seed)
    one = step(model, job)
    parts = [by_group(one, group) for group in GROUPS]
    for at, stretch in enumerate(one.stretches):
        total = [sum(heights) for heights in zip(*(part[at] for part in parts), strict=True)]
        assert total == [stretch.start, *stretch.tops, stretch.end]


def spelled(one: Step) -> list[str]:
    """The names of a step's stretches, one for each layer; a segment cut into parts is named once."""
    found: list[str] = []
    for stretch in one.stretches:
        several = re.fullmatch(r"layers (\d+) to (\d+) (\w+)", stretch.name)
        if several:
            first, last = int(several[1]), int(several[2])
            step_ = 1 if first < last else -1
            found += [f"layer {layer} {several[3]}" for layer in range(first, last + step_, step_)]
        elif not found or found[-1] != stretch.name:
            found.append(stretch.name)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_names_of_stretches_are_the_marks_of_the_full_play(seed: int) -> None:
    """Every instant of a full play is a stretch of the folded one, in order."""
    model, job, _ = random_case(seed)
    one = step(model, job)
    marks = [name for _, name in train_step(model, job).recorder.marks]
    assert marks[-1] == "end"
    assert spelled(one) == marks[:-1]
    assert one.stretches[start_of(one, "loss backward").at].name == "loss backward"


def part(work: str, layer: int | None, *, shifted: bool, repeated: bool) -> Part:
    return Part(work, layer, shifted, repeated, ((Change(0, 1, 0),),))


@pytest.mark.parametrize(
    ("made", "period", "extra", "name"),
    [
        (part("loss backward", None, shifted=False, repeated=False), 1, 7, "loss backward"),
        (part("forward", 0, shifted=False, repeated=False), 1, 7, "layer 0 forward"),
        (part("forward", 1, shifted=False, repeated=True), 1, 7, "layers 1 to 8 forward"),
        (part("forward", 2, shifted=True, repeated=False), 1, 7, "layer 9 forward"),
        (part("backward", 2, shifted=True, repeated=False), 1, 7, "layer 9 backward"),
        (part("backward", 1, shifted=True, repeated=True), 1, 7, "layers 8 to 1 backward"),
        (part("forward", 1, shifted=False, repeated=True), 1, 0, "layer 1 forward"),
        (part("forward", 3, shifted=False, repeated=True), 3, 2, "layers 3 to 11 forward"),
        (part("backward", 5, shifted=True, repeated=True), 3, 2, "layers 11 to 3 backward"),
        (part("forward", 3, shifted=False, repeated=True), 3, 0, "layers 3 to 5 forward"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_by_hand(made: Part, period: int, extra: int, name: str) -> None:
    """First, repeated and last layers at other depths, for periods of one layer and of three."""
    assert name_of(made, period, extra) == name


heights = st.integers(0, 10**12)


@given(st.integers(1, 50), heights, st.lists(heights, max_size=4), heights)
def test_the_peak_of_a_stretch_is_the_highest_of_all_repetitions(
    repeats: int, start: int, tops: list[int], end: int
) -> None:
    """Written out one by one, repetitions reach the peak and the end that the stretch says."""
    one = Stretch("x", repeats, start, tuple(tops), end)
    rise = end - start
    every = [height + turn * rise for turn in range(repeats) for height in (start, *tops)]
    assert one.peak == max(every)
    assert one.last_end == start + repeats * rise


def test_the_highest_of_columns() -> None:
    """One number for ints, one per job for columns, also where the two are mixed."""
    import numpy as np

    assert highest([3, 1, 2]) == 3
    assert highest([3, np.asarray([1, 5]), 2]).tolist() == [3, 5]
