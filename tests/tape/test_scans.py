"""Scans token by token, played with few turns: the same heights and the same events as all turns have."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from oomph.errors import UnsupportedError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play
from oomph.steps import step
from oomph.structure import Job
from tests.tape import hybrids, state_space
from tests.test_streams import same

LAYERS = 12
JOBS: list[Job] = [
    TrainJob(2, 20),
    TrainJob(1, 7, checkpointing="non-reentrant", accumulation=2),
    TrainJob(1, 9, checkpointing="reentrant", precision="amp-bf16"),
    TrainJob(2, 12, method="lora", targets="in_proj", clip_gradients=True),
    InferJob(2, 20, decode=2),
]


def config(family: str) -> dict[str, Any]:
    if family in state_space.CONFIGS:
        return {**state_space.CONFIGS[family](random.Random(3)), "num_hidden_layers": LAYERS}
    return hybrids.deep(family, LAYERS)


@pytest.mark.parametrize("job", JOBS, ids=str)
@pytest.mark.parametrize("family", ["recurrent_gemma", "mamba", "jamba", "zamba"])
def test_few_turns_tell_all(family: str, job: Job) -> None:
    """In training, where each leaves states for backward; recomputed; and where only outputs stay."""
    if isinstance(job, TrainJob) and job.method == "lora" and family == "recurrent_gemma":
        job = replace(job, targets="linear_x")
    model = model_from_config(config(family))
    assert step(model, job).peak == play(model, job).peak
    same(model, job)


def test_more_tokens_are_read_than_trained_on() -> None:
    """Where nothing is saved for backward a turn has fewer events; what is too long is refused with its limit."""
    model = model_from_config(config("mamba"))
    assert step(model, InferJob(1, 8192)).peak > step(model, InferJob(1, 2048)).peak
    with pytest.raises(UnsupportedError, match="at most 8192 tokens"):
        step(model, InferJob(1, 8193))
