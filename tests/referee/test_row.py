"""One measured row, run in this process: its phases are the trace's, and what goes wrong is a row too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oomph.job import InferJob, TrainJob
from tests.referee import models

pytestmark = pytest.mark.slow
SMALL: dict[str, Any] = {"batch": 2, "seq_len": 37}
JOBS = {
    "adamw": (models.LLAMA, TrainJob(**SMALL)),
    "accumulation, clipped, gradients kept": (
        models.QWEN3,
        TrainJob(**SMALL, accumulation=2, clip_gradients=True, set_to_none=False, optimizer="sgd"),
    ),
    "checkpointing, fp32 outputs": (
        models.LLAMA,
        TrainJob(**SMALL, checkpointing="non-reentrant", fp32_outputs=True, hold_logits=False),
    ),
    "reentrant, eager": (models.LLAMA, TrainJob(**SMALL, checkpointing="reentrant", attention="eager")),
    "first step": (models.GPT2, TrainJob(**SMALL, steady=False, implementation="loop")),
    "decode, static, padded": (models.LLAMA, InferJob(**SMALL, decode=2, cache="static", padding=True)),
    "decode": (models.LLAMA, InferJob(**SMALL, decode=2)),
}


def measured(raw: dict[str, Any], job: Any, snapshot: str = "") -> dict[str, Any]:
    from oomph.referee.row import measure
    from tests.referee.cpu_row import CpuMeter

    return measure(raw, job, CpuMeter(), snapshot)


@pytest.mark.parametrize("name", JOBS)
def test_phases_are_those_of_the_trace(name: str) -> None:
    """Peak and end of every phase equal a real run under the tracker, which starts with what is alive before."""
    from oomph.referee.trace import phases, trace

    raw, job = JOBS[name]
    row = measured(raw, job)
    expected = [
        each
        for each in phases(trace(raw, job, device="cpu", real=True, layer_marks=False).stream)
        if each.name not in ("parameters", "gradients", "optimizer states")
    ]
    found = [(each["name"], each["peak_allocated_bytes"], each["end_allocated_bytes"]) for each in row["phases"]]
    assert found == [(each.name, each.peak_bytes, each.end_bytes) for each in expected]
    assert row["status"] == "ok"
    assert row["measured"]["peak_allocated_bytes"] == max(each.peak_bytes for each in expected)
    assert row["measured"]["resident_alloc_bytes"] == expected[-1].end_bytes


def test_the_warm_up_is_kept_apart() -> None:
    """A steady step follows a whole other one; a first step follows nothing but the model's making."""
    steady, first = (measured(models.LLAMA, TrainJob(**SMALL, steady=steady)) for steady in (True, False))
    step = ["forward", "backward", "optimizer step", "zero_grad"]
    assert [each["name"] for each in steady["warm_up"]] == ["build", *step]
    assert [each["name"] for each in steady["phases"]] == step
    assert [each["name"] for each in first["warm_up"]] == ["build"]
    assert [each["name"] for each in first["phases"]] == step
    states = steady["phases"][0]["peak_allocated_bytes"] - first["phases"][0]["peak_allocated_bytes"]
    two_buffers = 2 * 512
    assert states == 2 * (steady["warm_up"][0]["end_allocated_bytes"] - two_buffers)


def test_parameters_and_device_figures() -> None:
    """The context is what the device holds before any tensor; nvidia-smi's share includes it."""
    from tests.referee.cpu_row import CONTEXT, OTHERS

    row = measured(models.GPT2, TrainJob(**SMALL))
    found = row["measured"]
    embeddings, per_layer = (1013 + 128) * 192, 12 * 192 * 192 + 13 * 192
    assert row["params"] == embeddings + 2 * per_layer + 2 * 192
    assert (found["device_before_bytes"], found["context_bytes"]) == (OTHERS, CONTEXT)
    assert found["nvidia_smi_bytes"] == found["process_bytes"] == CONTEXT + found["end_reserved_bytes"]


@pytest.mark.parametrize(
    ("job", "kernels"),
    [
        (TrainJob(**SMALL), ["flash"]),
        (TrainJob(**SMALL, attention="math"), ["math"]),
        (TrainJob(**SMALL, attention="eager"), []),
        (TrainJob(**SMALL, precision="amp-bf16"), ["flash"]),
        (InferJob(**SMALL, attention="math", decode=1), ["math"]),
    ],
)
def test_the_kernel_asked_for_is_the_one_taken(job: Any, kernels: list[str]) -> None:
    """Torch itself is asked; eager attention calls none."""
    assert measured(models.LLAMA, job)["kernels"] == kernels


def test_attention_is_as_before_afterwards() -> None:
    """Forcing a kernel leaves torch as it was, also when the job fails."""
    import torch
    from torch.nn.attention import _cur_sdpa_kernel_backends

    functional = torch.nn.functional
    before = functional.scaled_dot_product_attention, _cur_sdpa_kernel_backends(with_priority=True)
    assert measured({**models.LLAMA, "num_attention_heads": 7}, TrainJob(**SMALL))["status"] == "error"
    measured(models.LLAMA, TrainJob(**SMALL, attention="cudnn"))
    assert (functional.scaled_dot_product_attention, _cur_sdpa_kernel_backends(with_priority=True)) == before


def test_out_of_memory_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where, and how much was allocated then: more than the limit, no more than the step would have taken."""
    whole = measured(models.LLAMA, TrainJob(**SMALL))["measured"]["peak_allocated_bytes"]
    limit = whole - 1
    monkeypatch.setenv("OOMPH_TEST_DEVICE_BYTES", str(limit))
    row = measured(models.LLAMA, TrainJob(**SMALL))
    assert (row["status"], row["failed_in"]) == ("oom", "before: optimizer step")
    assert row["reason"] == f"OutOfMemoryError: CUDA out of memory. Tried too much of {limit} bytes."
    assert limit < row["measured"]["end_allocated_bytes"] <= row["measured"]["peak_allocated_bytes"] <= whole
    monkeypatch.setenv("OOMPH_TEST_DEVICE_BYTES", "1000")
    row = measured(models.LLAMA, TrainJob(**SMALL))
    assert (row["status"], row["failed_in"]) == ("oom", "before: build")


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), False),
    ],
)
def test_memory_runs_out_outside_of_torch_too(error: Exception, out: bool) -> None:
    """The driver's and cuBLAS's own errors mean the same."""
    from oomph.referee.row import ran_out

    assert ran_out(error) is out


def test_other_failures_are_rows_in_one_line() -> None:
    """A model that cannot be built says why."""
    row = measured({"model_type": "nonsense-9"}, TrainJob(**SMALL))
    assert (row["status"], row["failed_in"]) == ("error", "before: build")
    assert "no architecture 'nonsense-9'" in row["reason"]


def test_a_recording_begins_before_the_model(tmp_path: Path) -> None:
    """The snapshot reader finds the row's own peak in it."""
    from oomph.snapshot import read_recording

    path = tmp_path / "row.pickle"
    row = measured(models.LLAMA, TrainJob(**SMALL), str(path))
    recording = read_recording(path)
    assert recording.stream.peak_bytes == row["measured"]["peak_allocated_bytes"]
    assert recording.unexplained == 0
