"""A step as a drawing sees it: bytes alive by group at every height, each repeated layer on its own."""

from __future__ import annotations

import re

from oomph.peak import STAYING, Place, alive_at, by_group
from oomph.recipe import Stretch
from oomph.steps import Step
from oomph.timeline import LARGEST, STACKED, Point, Timeline
from oomph.units import human

SPAN = re.compile(r"layers (\d+) to (\d+) (\w+)")


def step_timeline(step: Step, title: str, capacity_bytes: int | None = None) -> Timeline:
    """Return the timeline of one job's step, from its first to its last event; the largest tensors at each peak."""
    heights = {group: by_group(step, group) for group in STACKED}
    shown = tuple(group for group in STACKED if any(any(stretch) for stretch in heights[group]))
    points = []
    for at, stretch in enumerate(step.stretches):
        if at < step.begin:  # what was there before the step
            continue
        columns = [heights[group][at] for group in shown]
        highest = _highest(stretch)
        top = _largest(step, Place(at, highest - 1, 0))
        for repetition in range(stretch.repeats):
            rises = [(column[-1] - column[0]) * repetition for column in columns]
            instant = _instant(stretch.name, stretch.repeats, repetition)
            for index, height in enumerate(zip(*columns, strict=True)):
                groups = tuple(a + b for a, b in zip(height, rises, strict=True))
                points.append(Point(instant, groups, top if index == highest else ()))
    return Timeline(title, "estimate", shown, tuple(points), capacity_bytes)


def _highest(stretch: Stretch) -> int:
    """Return which of a stretch's start and tops is highest."""
    heights = (stretch.start, *stretch.tops)
    return heights.index(max(heights))


def _largest(step: Step, place: Place) -> tuple[str, ...]:
    """Return the largest tensors alive at a height, in words, without those that always are."""
    moving = [one for one in alive_at(step, place) if one.kind.why not in STAYING]
    return tuple(
        f"{one.count} x {one.name} {list(one.shape)} {one.kind.dtype}: {human(one.n_bytes)}" for one in moving[:LARGEST]
    )


def _instant(name: str, repeats: int, repetition: int) -> str:
    """Return the name of one repetition: the first of "layers 2 to 31 forward", 30 times, is "layer 2 forward"."""
    span = SPAN.fullmatch(name)
    if span is None:
        return name
    first, last = int(span[1]), int(span[2])
    sign, period = (1, (last - first + 1) // repeats) if last > first else (-1, (first - last + 1) // repeats)
    first += sign * period * repetition
    return f"layer {first} {span[3]}" if period == 1 else f"layers {first} to {first + sign * (period - 1)} {span[3]}"
