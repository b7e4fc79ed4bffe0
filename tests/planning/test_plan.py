"""Plans: what is advised fits, by the engine and by the trace; combinations have nothing to spare."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

import pytest

from oomph.device_memory import fits
from oomph.devices import parse_gpus
from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.job_ledger import job_ledger
from oomph.planning.bench import Bench
from oomph.planning.change import changed, together
from oomph.planning.combine import combination
from oomph.planning.levers import levers
from oomph.planning.plan import on_devices, plan
from oomph.planning.result import Change, Plan
from tests.planning.models import GPT2, LLAMA, MIXTRAL, bench, gpu, random_job, random_model, subject, too_small

HEAVY = TrainJob(6, 1024)


def job_of(change: Change) -> TrainJob:
    """The job that a change describes, as a reader of the JSON would build it."""
    return TrainJob(**{field.name: change.job[field.name] for field in fields(TrainJob)})


def check(raw: dict[str, Any], job: TrainJob, made: Plan, fleet: Any) -> None:
    """Hold each change against a ledger of its own."""
    before = bench(raw).peak(job)
    for change in (*made.changes, *([made.combination] if made.combination else [])):
        ledger = job_ledger(subject(raw), job_of(change), fleet)
        assert ledger.peak is not None
        assert ledger.verdict is not None
        assert ledger.verdict.status == change.status
        assert (change.peak_bytes, change.saved_bytes) == (ledger.peak.peak_bytes, before - ledger.peak.peak_bytes)
        assert change.saved_bytes > 0
        assert change.device in (None, ledger.figure("device"))
        assert change.device is not None or change.status == "too_big"


@pytest.mark.parametrize("share", [0.9, 0.4])
def test_every_change_is_a_ledger_of_its_own(share: float) -> None:
    """Status, peak and saving of each line are those of the changed job, estimated from scratch."""
    fleet = too_small(LLAMA, HEAVY, share)
    check(LLAMA, HEAVY, plan(subject(LLAMA), HEAVY, fleet), fleet)


@pytest.mark.parametrize("seed", range(8))
def test_plans_of_random_jobs(seed: int) -> None:
    """The order of advice, no saving that is none, a combination only where it is cheaper than what stands alone."""
    rng = random.Random(seed)
    raw, job = random_model(rng), random_job(rng)
    fleet = too_small(raw, job, rng.choice([0.9, 0.6, 0.3]))
    made = plan(subject(raw), job, fleet)
    if made.verdict.fits:
        assert not made.changes
        return
    check(raw, job, made, fleet)
    order = [("fits", "tight", "too_big").index(change.status) for change in made.changes]
    assert order == sorted(order)
    prices = {lever.name: lever.price for lever in levers()}
    single = [prices[change.parts[0].lever] for change in made.changes if change.status == "fits"]
    if made.combination and single:
        assert max(prices[part.lever] for part in made.combination.parts) < min(single)


@pytest.mark.parametrize("share", [0.6, 0.4])
def test_nothing_can_be_left_out_of_a_combination(share: float) -> None:
    """Without any one of its levers the job no longer fits."""
    fleet = too_small(LLAMA, HEAVY, share)
    on = bench(LLAMA, fleet)
    steps = combination(on, HEAVY, levers())
    assert steps
    assert on.fits(together(HEAVY, steps))
    for at in range(len(steps)):
        assert not on.fits(changed(HEAVY, [*steps[:at], *steps[at + 1 :]]))


def test_the_same_question_has_the_same_answer() -> None:
    """No order of a set, no chance, no clock."""
    fleet = too_small(LLAMA, HEAVY, 0.3)
    assert plan(subject(LLAMA), HEAVY, fleet).to_dict() == plan(subject(LLAMA), HEAVY, fleet).to_dict()


def test_what_cannot_be_estimated_is_named_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lever whose every job the engine refuses is left out, and listed with the engine's reason."""
    peak = Bench.peak

    def refusing(self: Bench, job: TrainJob) -> int:
        if job.optimizer == "sgd":
            raise UnsupportedError("No rule for it.", "Trace it.")
        return peak(self, job)

    monkeypatch.setattr(Bench, "peak", refusing)
    made = plan(subject(LLAMA), HEAVY, too_small(LLAMA, HEAVY, 0.5))
    assert [(one.lever, one.reason) for one in made.refused] == [("SGD", "No rule for it.")]
    assert "SGD" not in [part.lever for change in made.changes for part in change.parts]


def test_nothing_makes_it_fit() -> None:
    """Weights alone are too much: the plan says so and lists what would save most all the same."""
    job = TrainJob(1, 512, optimizer="sgd", implementation="fused")
    made = plan(subject(LLAMA), job, gpu(500))
    assert made.combination is None
    assert "Nothing" in made.advice


def test_mixtures_of_experts_are_planned_for() -> None:
    """LoRA names its maps, as PEFT has none by default; QLoRA packs experts too, with adapters beside attention."""
    made = plan(subject(MIXTRAL), TrainJob(1, 128), gpu(600))
    levers = {change.parts[0].lever: change for change in made.changes}
    assert levers["LoRA"].job["targets"] == "q_proj,v_proj"
    packed = levers["QLoRA with 4-bit experts"]
    assert packed.job["targets"] == "q_proj,k_proj,v_proj,o_proj"
    assert packed.job["quantised_experts"]


def test_a_job_that_fits_has_room() -> None:
    """How large it could be, and what it could have; each of the limits is one that `max` finds."""
    job = TrainJob(1, 256, checkpointing="non-reentrant", optimizer="sgd")
    made = plan(subject(LLAMA), job, gpu(3000))
    assert made.verdict.fits
    assert [limit.over for limit in made.room] == ["batch", "seq"]
    names = [change.parts[0].lever for change in made.upgrades]
    assert names == ["no gradient checkpointing", "Adam", "fp32 weights"]
    assert all(change.saved_bytes <= 0 for change in made.upgrades)


def test_several_devices() -> None:
    """One ledger each, the same as `oomph train` gives; fits if any does."""
    fleets = [parse_gpus(name) for name in ("600MiB", "t4", "h100")]
    found = on_devices(subject(LLAMA), HEAVY, fleets)
    assert [one.to_dict() for one in found.ledgers] == [
        job_ledger(subject(LLAMA), HEAVY, fleet).to_dict() for fleet in fleets
    ]
    assert found.fits
    assert not on_devices(subject(LLAMA), HEAVY, fleets[:1]).fits


def without_packages(job: TrainJob) -> TrainJob:
    """The job without losses, kernels and offloading of packages that tests do not install; those have their own."""
    kept = "non-reentrant" if job.checkpointing == "unsloth" else job.checkpointing
    return replace(job, loss="hf", kernels="torch", checkpointing=kept)


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "share"), [(LLAMA, 0.6), (LLAMA, 0.3), (GPT2, 0.5)], ids=["llama", "tighter", "gpt2"])
def test_what_is_advised_fits_by_the_trace(raw: dict[str, Any], share: float) -> None:
    """The real classes and optimizers under the changed job: their events, through the allocator, fit too."""
    from oomph.referee.trace import trace

    fleet = too_small(raw, HEAVY, share)
    made = plan(subject(raw), HEAVY, fleet)
    advised = [change for change in made.changes if change.status == "fits"]
    advised += [made.combination] if made.combination else []
    assert advised
    capacity = fleet.device.capacity_bytes
    traceable = [change for change in advised if job_of(change) == without_packages(job_of(change))]
    assert traceable
    for change in traceable:
        stream = trace(raw, job_of(change)).stream
        assert fits(stream, capacity, fleet.device).status == "fits", change.parts
    assert fits(trace(raw, HEAVY).stream, capacity, fleet.device).status == "too_big"
