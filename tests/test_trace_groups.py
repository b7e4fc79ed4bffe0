"""Groups of a traced step's tensors, held against the figures that the trace keeps itself."""

from __future__ import annotations

import pytest

from oomph.job import TrainJob
from oomph.stream import Stream
from oomph.timeline import from_stream
from oomph.trace_groups import trace_groups, trace_start
from tests.configs import LLAMA_3_8B

RAW = {**LLAMA_3_8B, "num_hidden_layers": 2, "hidden_size": 512, "intermediate_size": 1024, "vocab_size": 1000}
JOBS = {
    "plain": TrainJob(1, 64),
    "accumulated, clipped": TrainJob(1, 64, accumulation=2, clip_gradients=True),
    "gradients kept": TrainJob(1, 64, set_to_none=False),
    "fused": TrainJob(1, 64, implementation="fused"),
    "first": TrainJob(1, 64, steady=False),
    "momentum": TrainJob(1, 64, optimizer="sgd-momentum"),
    "no optimizer": TrainJob(1, 64, optimizer="none"),
}


def heights(stream: Stream, start: int) -> dict[str, list[int]]:
    """Bytes of each group over the step; none of it left out."""
    made = from_stream(stream, trace_groups(stream), title="t", source="trace", start=start, most=10**6)
    return dict(zip(made.groups, map(list, zip(*(point.groups for point in made.points), strict=True)), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_traced_step_is_told_apart(job: TrainJob) -> None:
    """The same groups under the trace's own names: bytes as the real module and optimizer hold them."""
    trace = pytest.importorskip("oomph.referee.trace")
    traced = trace.trace(RAW, job)
    found = heights(traced.stream, trace_start(traced.stream))
    assert set(found["weights"]) == {traced.parameter_bytes}
    assert set(found["buffers"]) == {traced.buffer_bytes}
    assert max(found["gradients"]) == traced.parameter_bytes
    assert max(found.get("optimizer", [0])) == found.get("optimizer", [0])[-1] == traced.optimizer_bytes
