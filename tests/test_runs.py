"""Runs with batches of many lengths: steps one behind the other, and what the allocator reserves for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oomph.allocator import Config, replay
from oomph.allocator.config import SMALL_BYTES
from oomph.answer import subject
from oomph.device_memory import figures
from oomph.devices import Fleet, find
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.job_ledger import job_ledger
from oomph.runs import _run, runs
from oomph.stream import Stream
from oomph.streams import job_stream
from oomph.units import GIB

LLAMA = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": False,
}  # fmt: skip
MODEL = model_from_config(LLAMA)
JOBS = [
    TrainJob(batch=2, seq_len=1000, implementation="fused"),
    TrainJob(batch=1, seq_len=700, accumulation=2, checkpointing="reentrant", keep_outputs=True),
    TrainJob(batch=2, seq_len=900, set_to_none=False, clip_gradients=True),
    TrainJob(batch=2, seq_len=900, method="qlora", rank=16, use_cache=True, hold_logits=True),
    TrainJob(batch=2, seq_len=800, zero_grad="before-backward", optimizer="adafactor"),
]


def large(stream: Stream, begin: int = 0) -> list[int]:
    """Bytes of what is asked of the large pool and given back, in order."""
    return [n_bytes for _, n_bytes in stream.events[begin:] if abs(n_bytes) > SMALL_BYTES]


@pytest.mark.parametrize("job", JOBS, ids=range(len(JOBS)))
def test_steps_follow_each_other(job: TrainJob) -> None:
    """Each step of a run asks and frees what the second step of a job of its length does, and nothing piles up."""
    lengths = [job.seq_len, 333, job.seq_len, 640]
    run = _run(MODEL, job, lengths)
    replay(run)  # refuses what is freed twice or never was
    expected: list[int] = []
    for length in lengths[1:]:
        alone = job_stream(MODEL, replace(job, seq_len=length))
        expected += large(alone, next(at for at, name in alone.marks if name == "end"))
    first = job_stream(MODEL, replace(job, seq_len=lengths[0]))
    found = large(run, len(first.events))
    assert [n_bytes for n_bytes in found if n_bytes > 0] == [n_bytes for n_bytes in expected if n_bytes > 0]
    last = job_stream(MODEL, replace(job, seq_len=lengths[-1]))
    assert sum(large(run)) == sum(large(last))  # what stays


@pytest.mark.parametrize("job", JOBS, ids=range(len(JOBS)))
def test_equal_lengths_reserve_no_more(job: TrainJob) -> None:
    """Where all batches are of one length a run reserves what two steps do."""
    alone, run = job_stream(MODEL, job), _run(MODEL, job, [job.seq_len] * 8)
    assert replay(run).reserved_peak_bytes == replay(alone).reserved_peak_bytes


def test_mixed_lengths_reserve_more() -> None:
    """The more so the larger the vocabulary; with expandable segments hardly."""
    job = replace(JOBS[3], lengths="500±400")
    alone, mixed = job_stream(MODEL, replace(job, lengths="fixed")), runs(MODEL, job)
    stays, grows = figures(alone), figures(alone, runs=mixed)
    assert grows.allocated == stays.allocated
    assert grows.reserved.n_bytes > 1.1 * stays.reserved.n_bytes
    assert sum(item.n_bytes for item in grows.items) - sum(item.n_bytes for item in stays.items) == (
        grows.reserved.n_bytes - stays.reserved.n_bytes
    )
    expandable = Config(expandable_segments=True)
    assert figures(alone, None, expandable, runs=mixed).reserved.n_bytes < grows.reserved.n_bytes


def test_the_answer_says_so() -> None:
    """In the figures, in a line of its own; the tensors at the peak are those of the longest batch."""
    found, fleet = subject("qwen2.5-0.5b", offline=True), Fleet(find("rtx-4090"))
    job = TrainJob(method="lora", seq_len=1024, batch=2, checkpointing="reentrant")
    fixed, mixed = (job_ledger(found, one, fleet) for one in (job, replace(job, lengths="300±250")))
    assert mixed.figure("allocated") == fixed.figure("allocated")
    (line,) = [item for item in mixed.items if "many lengths" in item.name]
    assert line.n_bytes == mixed.figure("reserved").n_bytes - fixed.figure("reserved").n_bytes > GIB / 4
    assert "lengths=300±250" in mixed.assumptions
    assert "long_samples=cut" in mixed.assumptions
    assert not any("long_samples" in one for one in fixed.assumptions)
