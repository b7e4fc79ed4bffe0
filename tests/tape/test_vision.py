"""estimate == trace for vision-language models: training and inference, event by event."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.job import InferJob, TrainJob
from tests.tape.grid import compare
from tests.tape.vision import grid

pytestmark = pytest.mark.slow

CASES = [*grid()]


@pytest.mark.parametrize(("raw", "job"), CASES, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(CASES)])
def test_every_event_equals_the_trace(raw: dict[str, Any], job: TrainJob | InferJob) -> None:
    """Towers, projectors and decoders that are handed embeddings: same allocations, frees, order and peak."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs
