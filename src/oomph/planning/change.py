"""From levers to estimated changes: for each lever the mildest setting that makes a job fit, else what saves most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from oomph.job import DEFAULTS, TrainJob, describe
from oomph.job_words import BASES, PRESETS
from oomph.planning.bench import Bench
from oomph.planning.lever import Lever, delta, replaced
from oomph.planning.result import STATUSES, Change, Part, Refusal

Step = tuple[Lever, dict[str, Any]]  # a lever and the fields it sets


def change_of(bench: Bench, base: TrainJob, steps: Sequence[Step]) -> Change:
    """Return what some levers do together to a job."""
    job = together(base, steps)
    parts, now = [], base
    for lever, fields in steps:
        sets = tuple((name, getattr(now, name), after) for name, after in fields.items() if getattr(now, name) != after)
        after = replace(now, **fields)
        parts.append(Part(lever.name, sets, lever.price.words, lever.cost, lever.source, to_type(now, after)))
        now = after
    saved = bench.peak(base) - bench.peak(job)
    status = bench.status(job)
    return Change(tuple(parts), describe(job), bench.peak(job), saved, status, bench.device(job))


def to_type(before: TrainJob, after: TrainJob) -> tuple[tuple[str, Any], ...]:
    """Return the fields to say, with their values, after those that made one job, to make another.

    What a method stands for, and what is taken beside it, goes with the method: what is to stay is said. qlora itself
    gives way to what is said (oomph.runtimes.base), so it stays.

    >>> to_type(TrainJob(method="qlora"), TrainJob(method="lora", quantization="nf4-dq", targets="all-linear"))
    (('kbit_preparation', False),)
    """
    said = delta(before, after)
    if before.method in BASES and after.method == BASES[before.method]:
        said.pop("method")
    elif "method" in said:
        beside = ("autocast", "checkpointing")
        always = after.method in BASES  # which takes them unless told otherwise
        kept = beside if always else (*PRESETS["qlora"], *beside)
        said |= {name: getattr(after, name) for name in kept if always or getattr(after, name) != DEFAULTS[name]}
        stands_for = PRESETS.get(after.method, {})
        said = {
            name: value
            for name, value in said.items()
            if stands_for.get(name) != value or getattr(before, name) != DEFAULTS[name]
        }
    return tuple(said.items())


def changed(base: TrainJob, steps: Iterable[Step]) -> TrainJob | None:
    """Return the job that some levers make of another, None where what they set does not go together."""
    fields: dict[str, Any] = {}
    for _, each in steps:
        fields |= each
    return replaced(base, fields)


def together(base: TrainJob, steps: Iterable[Step]) -> TrainJob:
    """Return the job that levers make which were pulled one after the other, so that they go together."""
    job = changed(base, steps)
    assert job is not None
    return job


def settings(bench: Bench, lever: Lever, job: TrainJob) -> list[Step]:
    """Return what a lever can set in a job, the mildest first: only what can be estimated, and takes less."""
    after = [each for each in lever.applied(job, bench.found.model) if not bench.refusal(each)]
    return [(lever, delta(job, each)) for each in after if bench.peak(each) < bench.peak(job)]


def singles(bench: Bench, job: TrainJob, levers: Sequence[Lever]) -> list[tuple[Lever, Change]]:
    """Return each lever's change on its own, in the order of advice.

    What fits comes first, then what is tight; within that the cheapest kind of cost, then the most bytes saved.
    """
    found = []
    for lever in levers:
        steps = settings(bench, lever, job)
        if steps:
            chosen = next((one for one in steps if bench.fits(together(job, [one]))), steps[-1])
            found.append((lever, change_of(bench, job, [chosen])))
    return sorted(found, key=lambda one: (STATUSES.index(one[1].status), one[0].price, -one[1].saved_bytes))


def refusals(bench: Bench, job: TrainJob, levers: Sequence[Lever]) -> list[Refusal]:
    """Return the levers of which nothing they could set can be estimated, and why."""
    found = []
    for lever in levers:
        reasons = [bench.refusal(each) for each in lever.applied(job, bench.found.model)]
        if reasons and all(reasons):
            found.append(Refusal(lever.name, reasons[0]))
    return found
