"""estimate == trace for inference: prefill and decode on the tape equal the real code, event by event."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.job import InferJob
from tests.tape.grid import compare, infer_grid

pytestmark = pytest.mark.slow

GRID = list(infer_grid())


@pytest.mark.parametrize(("raw", "job"), GRID, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(GRID)])
def test_every_event_of_a_pass_equals_the_trace(raw: dict[str, Any], job: InferJob) -> None:
    """Prefill and single tokens, every cache and kernel: same allocations, same frees, same order, same peak."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs
