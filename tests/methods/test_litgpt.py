"""LitGPT's model code: the tape against what its real code was recorded to do, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oomph.compare import steps
from oomph.errors import OomphError, UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob, describe
from oomph.methods import adapted, trainable_params
from oomph.play import play
from oomph.steps import step
from tests.methods.litgpt_jobs import GOLDEN, MODELS, jobs, summary

RECORDED = {(one["model"], json.dumps(one["job"])): one for one in json.loads(GOLDEN.read_text())}
CASES = list(jobs())


@pytest.mark.parametrize(
    ("name", "job"), CASES, ids=[f"{job.model_code}-{name}-{job.method}-{i}" for i, (name, job) in enumerate(CASES)]
)
def test_every_event_of_a_step_equals_the_real_code(name: str, job: TrainJob) -> None:
    """Each allocation and free, in order, of a step of each release, and what lies there before."""
    played = play(model_from_config(MODELS[name][0]), job, on="trace")
    stream = played.recorder.stream()
    stream.events = stream.events[: played.end]
    ours = summary(
        steps(stream, played.start), played.kept("parameter", played.start), played.kept("buffer", played.start)
    )
    recorded = RECORDED[name, json.dumps(describe(job))]
    assert ours == {key: recorded[key] for key in ours}
