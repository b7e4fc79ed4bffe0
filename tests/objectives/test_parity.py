"""Every event of jobs with TRL's or sentence-transformers' losses equals what their own code does."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from oomph.compare import Step, steps
from oomph.job import TrainJob
from tests.objectives.cases import CASES, golden_file, packed, unpacked
from tests.tape.grid import played

ALL = [(version, name) for version, cases in CASES.items() for name in cases]


@cache
def golden(version: str) -> dict[str, Any]:
    """Return what was recorded from a version of a library."""
    found: dict[str, Any] = json.loads(golden_file(version).read_text())
    return found


@pytest.mark.parametrize(("version", "name"), ALL, ids=[" ".join(each) for each in ALL])
def test_every_event_equals_the_recorded_one(version: str, name: str) -> None:
    """The estimate allocates and frees what the library's code did, in its order."""
    raw, job = CASES[version][name]
    events = _recorded_part(raw, job)
    ours, theirs = unpacked(packed(events)), unpacked(golden(version)["events"][name])
    parting = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(ours))
    assert ours == theirs, f"event {parting}: {events[parting : parting + 1]}; recorded {theirs[parting : parting + 3]}"


def _recorded_part(raw: dict[str, Any], job: TrainJob) -> list[Step]:
    """Return what the estimate allocates and frees where it was recorded: of PPO after the generation."""
    found, events = played(raw, job)
    if job.objective != "ppo":
        return events
    stream = found.recorder.stream()
    stream.events = stream.events[: found.end]
    begin = next(at for at, name in stream.marks if name == "rollout" and at >= found.start)
    return steps(stream, begin, job.precision.startswith("amp-"))  # as it was recorded


def test_what_is_recorded_is_what_is_compared() -> None:
    """No recording stands for a job that is gone."""
    assert {version: set(golden(version)["events"]) for version in CASES} == {
        version: set(cases) for version, cases in CASES.items()
    }
