"""estimate == trace for the dense decoder families: training and inference, event by event."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.job import InferJob, TrainJob
from tests.tape.dense import INFER_JOBS, JOBS, grid, infer_grid
from tests.tape.grid import compare

pytestmark = pytest.mark.slow

CASES = [*grid(JOBS), *infer_grid(INFER_JOBS)]


@pytest.mark.parametrize(("raw", "job"), CASES, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(CASES)])
def test_every_event_equals_the_trace(raw: dict[str, Any], job: TrainJob | InferJob) -> None:
    """Norms, rotary embeddings, windows, caps and scales of each family: same allocations, frees, order and peak."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs
