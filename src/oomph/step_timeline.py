"""A step as a drawing sees it: bytes alive by group at every height, each repeated layer on its own."""

from __future__ import annotations

import re

from oomph.ledger import GROUPS
from oomph.peak import by_group
from oomph.steps import Step
from oomph.timeline import Point, Timeline

SPAN = re.compile(r"layers (\d+) to (\d+) (\w+)")


def step_timeline(step: Step, title: str, capacity_bytes: int | None = None) -> Timeline:
    """Return the timeline of one job's step."""
    heights = {group: by_group(step, group) for group in GROUPS}
    shown = tuple(group for group in GROUPS if any(any(stretch) for stretch in heights[group]))
    points = []
    for at, stretch in enumerate(step.stretches):
        columns = [heights[group][at] for group in shown]
        for repetition in range(stretch.repeats):
            rises = [(column[-1] - column[0]) * repetition for column in columns]
            for height in zip(*columns, strict=True):
                instant = _instant(stretch.name, stretch.repeats, repetition)
                points.append(Point(instant, tuple(a + b for a, b in zip(height, rises, strict=True))))
    return Timeline(title, "estimate", shown, tuple(points), capacity_bytes)


def _instant(name: str, repeats: int, repetition: int) -> str:
    """Return the name of one repetition: the first of "layers 2 to 31 forward", 30 times, is "layer 2 forward"."""
    span = SPAN.fullmatch(name)
    if span is None:
        return name
    first, last = int(span[1]), int(span[2])
    sign, period = (1, (last - first + 1) // repeats) if last > first else (-1, (first - last + 1) // repeats)
    first += sign * period * repetition
    return f"layer {first} {span[3]}" if period == 1 else f"layers {first} to {first + sign * (period - 1)} {span[3]}"
