"""What is to be typed for a change makes the changed job, whatever the method before."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from oomph.cli.job_options import spelled
from oomph.job import TrainJob
from oomph.planning.change import change_of, settings
from oomph.planning.levers import levers
from tests.planning.models import LLAMA, bench
from tests.test_cli import as_json


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_words_of_each_lever_make_its_job(method: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The command with a lever's words behind it is the job that the lever makes."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))

    def job_of(*words: str) -> dict[str, Any]:
        found: dict[str, Any] = as_json(capsys, "train", str(path), "--seq", "64", "--method", method, *words)["job"]
        return found

    on, before = bench(LLAMA), job_of()
    base = TrainJob(**{field.name: before[field.name] for field in fields(TrainJob)})
    seen = 0
    for lever in levers():
        for step in settings(on, lever, base)[-1:]:
            change = change_of(on, base, [step])
            options = [spelled(TrainJob, name, value) for part in change.parts for name, value in part.typed]
            after = job_of(*(word for option in options for word in option.split()))
            assert {name: after[name] for name in change.job} == change.job, lever.name
            seen += 1
    assert seen > 3
