"""Estimate and trace beside each other, on the command line and as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oomph.beside import Row, beside, collapsed, trace_ledger
from oomph.families import model_from_config
from oomph.job import TrainJob, describe
from oomph.play import train_step
from tests.referee import models
from tests.test_cli import as_json, run

ROOT = Path(__file__).parents[1]


def write(path: Path, raw: dict[str, Any]) -> str:
    path.write_text(json.dumps(raw))
    return str(path)


@pytest.mark.slow
def test_equal_jobs_are_said_to_be_equal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every instant has the same bytes on both sides, what stays too, and the command exits with 0."""
    config = write(tmp_path / "config.json", models.QWEN3)
    found = as_json(capsys, "trace", config, "--seq", "37", "--batch", "2", "--checkpointing", "non-reentrant")
    assert found["equal"] is True
    assert found["first_difference"] is None
    assert all(row["estimate"] == row["trace"] for row in found["instants"])
    assert [row["name"] for row in found["instants"]] == [
        "forward", "layer 0 forward", "layer 1 forward", "head", "backward", "layer 1 backward", "layer 0 backward",
        "optimizer step", "zero_grad",
    ]  # fmt: skip
    assert all(row["estimate_bytes"] == row["trace_bytes"] for row in found["kept"])
    ledger = found["trace"]
    assert sum(item["bytes"] for item in ledger["items"]) == ledger["figures"][0]["bytes"] == found["trace_peak_bytes"]


@pytest.mark.slow
def test_adapters_on_packed_experts_are_equal_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What PEFT and bitsandbytes make while they are imported is not taken for the job's."""
    config = write(tmp_path / "config.json", models.MIXTRAL)
    options = ("--method", "qlora", "--targets", "q_proj", "--quantised-experts", "--checkpointing", "non-reentrant")
    found = as_json(capsys, "trace", config, "--seq", "37", *options)
    assert found["equal"] is True
    assert all(row["estimate"] == row["trace"] for row in found["instants"])
    assert all(row["estimate_bytes"] == row["trace_bytes"] for row in found["kept"])


@pytest.mark.slow
def test_a_difference_has_an_event_and_an_operation() -> None:
    """Two jobs that differ part at the first event that only one has, and the report names both sides."""
    from oomph.referee.trace import trace

    raw = models.LLAMA
    job = TrainJob(2, 37, optimizer="none")
    traced = trace(raw, TrainJob(2, 37, optimizer="none", hold_logits=False))
    both = beside(job, train_step(model_from_config(raw), job, on="trace"), traced)
    assert both.equal is False
    assert both.parting is not None
    assert "frees" in str(both.parting)
    differ = [row.name for row in both.rows if not row.equal]
    assert "backward" in differ
    assert "layer 0 forward" not in differ


@pytest.mark.slow
def test_what_the_tape_cannot_play_is_traced_all_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A family without a program: the trace alone, with the reason, and exit code 0."""
    config = write(tmp_path / "config.json", {**models.MIXTRAL, "model_type": "rwkv"})
    code, out, _ = run(capsys, "trace", config, "--seq", "16", "--optim", "none")
    assert code == 0
    assert "No estimate" in out
    assert "rwkv" in out


@pytest.mark.slow
def test_a_trace_is_a_ledger_that_follows_the_schema() -> None:
    """The trace's ledger has the same form as the estimate's, and its items are what is alive at its peak."""
    from jsonschema import validate

    from oomph.answer import facts, resolve
    from oomph.header import Source
    from oomph.referee.trace import trace

    job = TrainJob(1, 16, implementation="fused")
    traced = trace(models.LLAMA, job)
    subject = resolve(Source("llama", "config", models.LLAMA))
    said = {"kind": "train", "model": "llama", "origin": "config", "format": job.precision, **describe(job)}
    ledger = trace_ledger(facts(subject), said, traced)
    validate(ledger.to_dict(), json.loads((ROOT / "docs" / "ledger.schema.json").read_text()))
    assert ledger.total_bytes == traced.stream.peak_bytes
    assert ledger.groups["weights"] == traced.parameter_bytes
    assert ledger.groups["optimizer"] == traced.optimizer_bytes


def test_layers_that_are_equal_are_one_row() -> None:
    """Runs of layers are joined: the most of all and the end of the last; a layer that differs stays alone."""
    rows = [
        Row("layer 0 forward", (9, 1), (9, 1)),
        Row("layer 1 forward", (7, 2), (7, 2)),
        Row("layer 2 forward", (8, 3), (8, 4)),
        Row("head", (5, 5), (5, 5)),
    ]
    assert list(collapsed(rows)) == [Row("layer 0 forward to layer 1 forward", (9, 2), (9, 2)), *rows[2:]]


def test_an_option_of_the_other_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Training has no cache length, inference no optimizer."""
    code, _, err = run(capsys, "trace", "gpt2", "--decode", "3")
    assert code == 2
    assert "--infer" in err


def test_programs_are_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    """Inference has no framework, a config may name no model: both are said before anything is traced."""
    code, _, err = run(capsys, "trace", "gpt2", "--infer", "--framework", "trl")
    assert code == 2
    assert "Leave --framework and --config out" in err
    assert run(capsys, "trace", "--framework", "trl")[0] == run(capsys, "trace", "--infer")[0] == 2


@pytest.mark.slow
def test_a_framework_s_config_is_traced_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The model and the job are the file's, what it leaves unread is told, and the estimate equals the trace."""
    model = write(tmp_path / "config.json", models.QWEN3)
    config = {
        "base_model": model,
        "micro_batch_size": 2,
        "sequence_len": 37,
        "gradient_checkpointing": True,
        "shiny": 1,
    }
    found = as_json(capsys, "trace", "--config", write(tmp_path / "axolotl.yaml", config))
    assert found["equal"] is True
    job = found["trace"]["job"]
    assert (job["batch"], job["seq_len"], job["autocast"], job["fp32_outputs"]) == (2, 37, True, True)
    assert any("shiny" in text for text in found["trace"]["warnings"])
    assert any(text.startswith("axolotl: autocast=True") for text in found["trace"]["assumptions"])
