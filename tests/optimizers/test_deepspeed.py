"""DeepSpeed's ZeRO on one GPU, against the bytes its source lays out and what it was recorded to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from oomph.allocator import replay
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.optimizers.deepspeed import REDUCED, REDUCED_HERE
from oomph.play import train_step
from oomph.played import Played
from oomph.steps import step
from oomph.streams import job_stream
from tests.configs import LLAMA_3_8B

MODEL = model_from_config(LLAMA_3_8B)
RECORDED = json.loads((Path(__file__).parent / "deepspeed_events.json").read_text(encoding="utf-8"))
LATE = 2 * 10**9  # elements, which the gradients of more layers fill than are played
STEP = ("check gradients", "norms of gradients", "optimizer step")
OWN = ("ipg_buffer", REDUCED, REDUCED_HERE)
LEAST, MATRIX = 1024, 2  # bytes of what was recorded, axes
JOB = TrainJob(seq_len=64, zero_stage=2, zero_bucket=1000, checkpointing="reentrant")


def test_a_parameter_has_fourteen_bytes_and_eight_more_in_a_step() -> None:
    """2 of bf16, 4 of master weight, 8 of moments stay; a step has the gradient in bf16 twice and in fp32."""
    found = step(MODEL, JOB)
    assert found.resident == pytest.approx(14 * MODEL.params, rel=1e-4)
    assert found.peak == pytest.approx((14 + 2 + 2 + 4) * MODEL.params, rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"zero_bucket": LATE},
        {"zero_bucket": 0, "zero_overlap": True, "accumulation": 2},
        {"zero_stage": 1, "accumulation": 2},
        {"zero_offload": "optimizer"},
        {"method": "lora", "adapter_dtype": "base", "zero_bucket": 500_000_000, "steady": False},
    ],
    ids=str,
)
def test_few_layers_tell_of_many_or_all_are_played(options: dict[str, object]) -> None:
    """Wherever the first bucket is full: in the head, layers below, or never; all are played where few cannot tell."""
    job = replace(JOB, **options)  # type: ignore[arg-type]
    found = step(MODEL, job)
    assert found.peak == train_step(MODEL, job).peak
    assert found.folded == (options.get("zero_bucket") != LATE)


def test_buckets_are_there_during_backward_alone() -> None:
    """In the parameters' dtype, whatever the model; two of them with overlap_comm."""
    large = replace(JOB, zero_bucket=10**9, method="lora", adapter_dtype="base")
    one, two, none = (
        step(MODEL, each) for each in (large, replace(large, zero_overlap=True), replace(large, zero_bucket=1))
    )
    assert one.peak > none.peak + 15 * 10**8
    assert two.peak == pytest.approx(one.peak + 2 * 10**9, rel=1e-3)
    assert one.resident == none.resident


def test_an_automatic_bucket_is_the_hidden_size_squared() -> None:
    """As the HF Trainer fills in "auto"."""
    auto, said = (step(MODEL, replace(JOB, zero_bucket=size)) for size in (0, 4096 * 4096))
    assert (auto.peak, auto.forward_end) == (said.peak, said.forward_end)


def test_an_offloaded_optimizer_leaves_weights_and_a_buffer() -> None:
    """2 bytes for each parameter and the largest gradient once more; gradients go to the host one by one."""
    found = step(MODEL, replace(JOB, zero_offload="optimizer"))
    assert found.resident == pytest.approx(2 * MODEL.params + 2 * 128256 * 4096, rel=1e-3)
    assert found.peak < 6 * MODEL.params


def test_gradients_of_micro_batches_are_kept_on_a_stream_of_their_own() -> None:
    """With overlap_comm: 2 bytes of what trains for each micro-batch, in memory that nothing else gets."""
    job = replace(JOB, method="lora", adapter_dtype="base", accumulation=3, zero_overlap=True)
    stream = job_stream(MODEL, job)
    sizes = [event.n_bytes for event in stream.events if event.n_bytes > 0 and event.ordinal in stream.lanes]
    micro_batches = sum(name == "loss backward" for _, name in stream.marks)
    trained = train_step(MODEL, job).kept("optimizer state") // 12
    assert sum(sizes) == pytest.approx(micro_batches * 2 * trained, rel=1e-3)
    apart, together = replay(stream), replay(stream, lanes={0: 0})
    assert apart.allocated_peak_bytes == together.allocated_peak_bytes
    assert apart.reserved_peak_bytes >= together.reserved_peak_bytes
    assert not job_stream(MODEL, replace(job, zero_overlap=False)).lanes


def test_what_deepspeed_is_not_played_with_is_refused() -> None:
    """Other optimizers, stage 3, and virtual tokens in fp32, which it would cast."""
    with pytest.raises(UsageError, match="AdamW alone"):
        TrainJob(zero_stage=2, optimizer="sgd")
    with pytest.raises(UsageError, match="around AdamW alone"):
        TrainJob(zero_stage=2, optimizer="adamw_8bit")  # whose states would be taken for AdamW's
    with pytest.raises(UsageError, match="stage 3"):
        TrainJob(zero_stage=3)
    with pytest.raises(UsageError, match="Virtual tokens"):
        TrainJob(zero_stage=2, method="prompt-tuning")
    with pytest.raises(UsageError, match="AdaLoRA"):
        TrainJob(zero_stage=2, method="adalora")


def test_all_is_cast_to_one_dtype() -> None:
    """Adapters are made in fp32 by PEFT, as is what is not quantised when it prepares a base: not for long."""
    job = TrainJob(zero_stage=2, method="qlora")
    assert (job.adapter_dtype, job.kbit_preparation, job.quantization) == ("base", False, "nf4-dq")
    assert TrainJob(zero_stage=2, method="lora", precision="fp32").adapter_dtype == "fp32"


@pytest.mark.slow
def test_real_code_without_deepspeed_refuses() -> None:
    """Trace and measurement have no DeepSpeed."""
    from oomph.referee.optimizers import make_optimizer

    with pytest.raises(UnsupportedError, match="DeepSpeed"):
        make_optimizer(JOB, None)


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: str({**case, "sizes": "", "phases": ""}))
def test_every_event_equals_the_recording(case: dict[str, Any]) -> None:
    """DeepSpeed itself on one rank: its step, its buffers, and when they take a gradient's place."""
    model = model_from_config(RECORDED["config"])
    phases = case["phases"]
    for steady, recorded in ((False, phases[: len(phases) // 2]), (True, phases[len(phases) // 2 :])):
        job = TrainJob(
            1, RECORDED["tokens"], attention="eager", use_cache=False, steady=steady, accumulation=case["accumulation"],
            zero_stage=case["stage"], zero_bucket=case["bucket"], zero_overlap=case.get("overlap", False),
            zero_offload="optimizer" if case.get("offload") else "none",
        )  # fmt: skip
        theirs = [_named(events, case["sizes"]) for name, events in recorded if name != "between"]
        assert [one for one in _phases(train_step(model, job, on="cpu")) if one] == theirs


def _named(events: list[int], sizes: list[int]) -> list[tuple[int, int]]:
    """Return events as (bytes, which allocation of the phase it is, or was, if it was there before: -1); within a run
    of frees the order does not count.
    """
    seen: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    for is_free, run in groupby(events, lambda event: event < 0):
        if is_free:
            found += sorted((-sizes[~event], seen.get(~event, -1)) for event in run)
            continue
        for event in run:
            seen[event] = len(seen)
            found.append((sizes[event], seen[event]))
    return found


def _phases(played: Played) -> Iterator[list[tuple[int, int]]]:
    """Yield the same of what is played, backward passes and a step."""
    recorder = played.recorder
    sizes = [one.n_bytes for one in recorder.allocations]
    matrices = {one.shape for one in recorder.allocations[: played.start] if len(one.shape) == MATRIX}
    marks = [(position, name) for position, name in recorder.marks if position >= played.start]
    kept: dict[bool, list[int]] = {False: [], True: []}
    alive: set[int] = set()
    for (begin, name), end in zip(marks, [position for position, _ in marks[1:]], strict=False):
        if name.endswith("forward") and kept[False]:
            yield _named(kept[False], sizes)
            kept[False] = []
        in_step = name in STEP
        for event in recorder.events[begin:end]:
            made = recorder.allocations[event if event >= 0 else ~event]
            ours = in_step or made.op in OWN or (name.endswith(("backward", "gradients")) and made.shape in matrices)
            if event >= 0 and sizes[event] >= LEAST and ours:
                alive.add(event)
                kept[in_step].append(event)
            elif event < 0 and ~event in alive:
                kept[in_step].append(event)
    yield from (_named(events, sizes) for events in kept.values())
