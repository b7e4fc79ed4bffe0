"""Timelines to draw: a step of Llama-3-8B as it is played, and one whose every text attacks."""

from __future__ import annotations

from functools import cache

from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.play import train_step
from oomph.step_groups import step_end, step_groups
from oomph.timeline import Point, Timeline, from_stream
from oomph.units import GIB
from tests.configs import LLAMA_3_8B

HOSTILE = (
    "</script></style></title></svg><script>alert(1)</script>\"' onload=x & ]]> <!-- \x00\x1b\u202e\ud800" + "x" * 500
)


@cache
def step(layers: int = 32, source: str = "estimate") -> Timeline:
    """A training step; a trace differs from an estimate in how gradients are summed."""
    model = model_from_config({**LLAMA_3_8B, "num_hidden_layers": layers})
    played = train_step(model, TrainJob(1, 2048), events=True, in_place_sums=source == "estimate")
    stream = played.recorder.stream
    assert stream is not None
    return from_stream(
        stream, step_groups(stream), title="llama-3-8b: training step, batch 1 x 2048", source=source,
        start=played.start, stop=step_end(stream), capacity_bytes=79 * GIB,
    )  # fmt: skip


def hostile() -> Timeline:
    """Every text is an attack, every instant another."""
    points = tuple(Point(f"{index}{HOSTILE}", (index * GIB, GIB), (HOSTILE,)) for index in range(3000))
    return Timeline(HOSTILE, "measured", (HOSTILE, "b" + HOSTILE), points, 2 * GIB)
