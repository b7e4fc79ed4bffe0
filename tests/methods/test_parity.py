"""estimate == trace for fine-tuning methods: real PEFT around the real class, event by event.

By hand, `OOMPH_HUNT=500 pytest -m slow tests/methods/test_parity.py` looks at as many jobs with another seed.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from oomph.job import TrainJob
from tests.methods.grid import JOBS, grid
from tests.tape.grid import compare

pytestmark = pytest.mark.slow

HUNT = int(os.environ.get("OOMPH_HUNT", "0"))
CASES = list(grid(HUNT or JOBS, seed=HUNT or 20261127))


@pytest.mark.parametrize(("raw", "job"), CASES, ids=[f"{i}-{raw['model_type']}" for i, (raw, _) in enumerate(CASES)])
def test_every_event_of_a_step_equals_the_trace(raw: dict[str, Any], job: TrainJob) -> None:
    """Frozen maps, adapters, their casts and masks: same allocations, same frees, same order, same peak."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs
