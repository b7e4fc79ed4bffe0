"""estimate == trace for GPT-like families: every event of a step and of a pass equals the real code's."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.job import InferJob, TrainJob
from tests.tape.gptlike import grid
from tests.tape.grid import compare

pytestmark = pytest.mark.slow

GRID = list(grid())


@pytest.mark.parametrize(("raw", "job"), GRID, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(GRID)])
def test_every_event_equals_the_trace(raw: dict[str, Any], job: TrainJob | InferJob) -> None:
    """Same allocations, same frees, same order, same peak, and the same bytes kept."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs
