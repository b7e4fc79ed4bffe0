"""Timelines to draw: a step of Llama-3-8B as it is played, and one whose every text attacks."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from oomph import steps
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.step_timeline import step_timeline
from oomph.timeline import Point, Timeline
from oomph.units import GIB
from tests.configs import LLAMA_3_8B

HOSTILE = (
    "</script></style></title></svg><script>alert(1)</script>\"' onload=x & ]]> <!-- \x00\x1b\u202e\ud800" + "x" * 500
)


@cache
def step(layers: int = 32, source: str = "estimate") -> Timeline:
    """A training step; a trace differs from an estimate in how gradients are summed."""
    model = model_from_config({**LLAMA_3_8B, "num_hidden_layers": layers})
    played = steps.step(model, TrainJob(1, 2048), on="gpu" if source == "estimate" else "trace")
    return replace(step_timeline(played, "llama-3-8b: training step, batch 1 x 2048", 79 * GIB), source=source)


def hostile() -> Timeline:
    """Every text is an attack, every instant another."""
    points = tuple(Point(f"{index}{HOSTILE}", (index * GIB, GIB), (HOSTILE,)) for index in range(3000))
    return Timeline(HOSTILE, "measured", (HOSTILE, "b" + HOSTILE), points, 2 * GIB)
