"""DeepSpeed's ZeRO-2 on one GPU, against the bytes its source lays out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oomph.allocator import replay
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.play import train_step
from oomph.steps import step
from oomph.streams import job_stream
from tests.configs import LLAMA_3_8B

MODEL = model_from_config(LLAMA_3_8B)
JOB = TrainJob(seq_len=64, zero_bucket=1000, checkpointing="reentrant")


def test_a_parameter_has_fourteen_bytes_and_eight_more_in_a_step() -> None:
    """2 of bf16, 4 of master weight, 8 of moments stay; a step has the gradient in bf16 twice and in fp32."""
    found = step(MODEL, JOB)
    assert found.resident == pytest.approx(14 * MODEL.params, rel=1e-4)
    assert found.peak == pytest.approx((14 + 2 + 2 + 4) * MODEL.params, rel=1e-4)


def test_buckets_are_there_during_backward_alone() -> None:
    """Two of them, in the parameters' dtype, whatever the model."""
    large = replace(JOB, zero_bucket=10**9, method="lora")
    small = replace(large, zero_bucket=1)
    assert step(MODEL, large).peak > step(MODEL, small).peak + 3 * 10**9
    assert step(MODEL, large).resident == step(MODEL, small).resident
    assert step(MODEL, large).peak == train_step(MODEL, large).peak


def test_gradients_of_micro_batches_are_kept_twice_on_a_stream_of_their_own() -> None:
    """The first one's sum and the next ones' copies, 2 bytes each of what trains, in memory that nothing else gets."""
    job = replace(JOB, method="lora", adapter_dtype="base", accumulation=3)
    stream = job_stream(MODEL, job)
    sizes = [event.n_bytes for event in stream.events if event.n_bytes > 0 and event.ordinal in stream.lanes]
    micro_batches = sum(name == "loss backward" for _, name in stream.marks)
    trained = train_step(MODEL, job).kept("optimizer state") // 12
    assert sum(sizes) == micro_batches * 2 * trained
    apart, together = replay(stream), replay(stream, lanes={0: 0})
    assert apart.allocated_peak_bytes == together.allocated_peak_bytes
    assert apart.reserved_peak_bytes > together.reserved_peak_bytes


def test_what_deepspeed_is_not_played_with_is_refused() -> None:
    """Other optimizers, and real code."""
    with pytest.raises(UsageError, match="AdamW alone"):
        TrainJob(zero_bucket=1, optimizer="sgd")


@pytest.mark.slow
def test_real_code_without_deepspeed_refuses() -> None:
    """Trace and measurement have no DeepSpeed."""
    from oomph.referee.optimizers import make_optimizer

    with pytest.raises(UnsupportedError, match="DeepSpeed"):
        make_optimizer(JOB, None)
