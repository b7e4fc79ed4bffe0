"""Jobs on which the tape once parted from the trace: found by the hunt (test_hunt.py) or by hand, then mended."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.job import TrainJob
from tests.referee import models
from tests.tape.grid import compare

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {"batch": 2, "seq_len": 37, "optimizer": "none", "steady": False}
THREE_LAYERS: dict[str, Any] = {**models.GPT2, "n_layer": 3}

FOUND: list[tuple[str, dict[str, Any], TrainJob]] = [
    (
        "gpt2's unfused GELU: autocast runs pow in fp32, the sums and products after it follow",
        models.GPT2,
        TrainJob(**TINY, precision="amp-bf16"),
    ),
    (
        "Conv1D is addmm: autocast casts its weight, then its input, then its bias",
        models.GPT2,
        TrainJob(**TINY, precision="amp-fp16", dropout=False, accumulation=2),
    ),
    (
        "gpt2's reentrant checkpoints keep position_ids in their partial until the graph goes",
        models.GPT2,
        TrainJob(**TINY, checkpointing="reentrant"),
    ),
    (
        "a deep graph goes before the loss it hangs on, not after: CPython puts the end of deep chains off",
        THREE_LAYERS,
        TrainJob(**TINY, checkpointing="reentrant", checkpoint_every=2, accumulation=2, dropout=False),
    ),
]


@pytest.mark.parametrize(("reason", "raw", "job"), FOUND, ids=[reason.split(":")[0] for reason, _, _ in FOUND])
def test_found_jobs_stay_mended(reason: str, raw: dict[str, Any], job: TrainJob) -> None:
    """Each equals the trace event by event."""
    parting, ours, theirs = compare(raw, job)
    assert parting is None, f"{reason}: {parting}"
    assert ours == theirs
