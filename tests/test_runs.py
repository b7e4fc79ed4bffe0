"""Runs with batches of many lengths: steps one behind the other, and what the allocator reserves for them."""

from __future__ import annotations

import random
from dataclasses import replace
from math import gamma, pi, sqrt

import pytest

from oomph.allocator import Config, replay
from oomph.allocator.config import SMALL_BYTES
from oomph.answer import subject
from oomph.device_memory import STUDENT, figures, one_more_run
from oomph.devices import Fleet, find
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.job_ledger import job_ledger
from oomph.runs import RUNS, Run, _run, runs
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


def asked(stream: Stream) -> list[int]:
    """Bytes of what the later step of a stream asks of the large pool, in order."""
    begin = next(at for at, name in stream.marks if name == "end")
    return [n_bytes for _, n_bytes in stream.events[begin:] if n_bytes > SMALL_BYTES]


def stays(run: Run) -> list[int]:
    """Bytes of each large tensor that is there when a run has ended."""
    there = run.first.live_at(len(run.first.events))
    for step in run.then:
        there = {now: there[before] for before, now in step.moved if before in there}
        for at, size in zip(step.events, step.sizes, strict=True):
            if at >= 0:
                there[at] = size
            else:
                there.pop(~at, None)
    return [size for size in there.values() if size > SMALL_BYTES]


@pytest.mark.parametrize("job", JOBS, ids=range(len(JOBS)))
def test_steps_follow_each_other(job: TrainJob) -> None:
    """Each step of a run asks what the second step of a job of its length does, and nothing piles up."""
    lengths = [job.seq_len, 333, job.seq_len, 640]
    run = _run(MODEL, job, lengths)
    alone = [job_stream(MODEL, replace(job, seq_len=length)) for length in lengths]
    assert run.first.events == alone[0].events
    assert [[size for size in step.sizes if size] for step in run.then] == [asked(stream) for stream in alone[1:]]
    last = alone[-1].live_at(len(alone[-1].events)).values()
    assert sorted(stays(run)) == sorted(size for size in last if size > SMALL_BYTES)


@pytest.mark.parametrize("job", JOBS, ids=range(len(JOBS)))
def test_equal_lengths_reserve_no_more(job: TrainJob) -> None:
    """Where all batches are of one length a run reserves what two steps do."""
    alone, run = job_stream(MODEL, job), _run(MODEL, job, [job.seq_len] * 8)
    assert replay(run.first, then=run.then).reserved_peak_bytes == replay(alone).reserved_peak_bytes


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


def test_the_limit_of_one_more_run() -> None:
    """Student's t for as many runs as are played, and its limit against draws of a normal distribution."""
    freedom = RUNS - 1
    scale = gamma((freedom + 1) / 2) / (sqrt(freedom * pi) * gamma(freedom / 2))
    width = STUDENT / 10_000
    density = [scale * (1 + (width * (at + 0.5)) ** 2 / freedom) ** (-(freedom + 1) / 2) for at in range(10_000)]
    assert 0.5 + width * sum(density) == pytest.approx(0.99, abs=1e-5)
    draws = random.Random(0)
    below = sum(
        draws.gauss(5, 2) <= one_more_run([draws.gauss(5, 2) for _ in range(RUNS)]) for _ in range(20_000)
    )  # fmt: skip
    assert below / 20_000 == pytest.approx(0.99, abs=0.003)
