"""From a job and a device to a plan."""

from __future__ import annotations

from collections.abc import Sequence

from oomph.answer import Subject
from oomph.devices import Fleet
from oomph.errors import UnsupportedError
from oomph.job import TrainJob
from oomph.job_ledger import job_ledger
from oomph.ledger import Ledger
from oomph.planning.bench import Bench
from oomph.planning.change import change_of, refusals, singles
from oomph.planning.combine import combination
from oomph.planning.lever import Lever, delta
from oomph.planning.levers import levers
from oomph.planning.result import FITS, Change, Limit, OnDevices, Plan
from oomph.planning.solve import largest
from oomph.planning.upgrades import UPGRADES
from oomph.units import human

ROOM = ("batch", "seq")  # what a job that fits could have more of


def plan(found: Subject, job: TrainJob, fleet: Fleet) -> Plan:
    """Return what would make a job fit on a device, or what it leaves there.

    Raises UnsupportedError where the job itself cannot be estimated.
    """
    bench = Bench(found, fleet)
    ledger = bench.ledger(job)
    if bench.fits(job):
        return _with_room(bench, job, ledger)
    every = levers()
    ranked = singles(bench, job, every)
    enough = [lever for lever, change in ranked if change.status == FITS]
    cheaper = [lever for lever in every if not enough or lever.price < enough[0].price]
    steps = combination(bench, job, cheaper)
    together = change_of(bench, job, steps) if steps else None
    changes = tuple(change for _, change in ranked)
    return Plan(ledger, changes, together, _advice(changes, together), refused=tuple(refusals(bench, job, every)))


def on_devices(found: Subject, job: TrainJob, fleets: Sequence[Fleet]) -> OnDevices:
    """Return the job as it is on each of several devices."""
    return OnDevices(tuple(job_ledger(found, job, fleet) for fleet in fleets))


def _advice(changes: Sequence[Change], together: Change | None) -> str:
    """Return the plan in a sentence."""
    single = next((change for change in changes if change.status == FITS), None)
    if together is not None:
        names = ", ".join(part.lever for part in together.parts)
        said = f"The cheapest that fits: {names} ({_takes(together)})."
        return f"{said} No single change is as cheap." if single else f"{said} No single change is enough."
    if single is not None:
        return f"The cheapest that fits: {single.parts[0].lever} ({_takes(single)})."
    return "Nothing oomph knows makes this job fit here: take a larger GPU, or a smaller model."


def _takes(change: Change) -> str:
    return f"{human(change.device.n_bytes)} on the GPU" if change.device else f"{human(change.peak_bytes)} of tensors"


def _with_room(bench: Bench, job: TrainJob, ledger: Ledger) -> Plan:
    """Return the plan of a job that fits: how much more it could be."""
    room = [limit for over in ROOM for limit in _limit(bench, job, over)]
    upgrades = [change for lever in UPGRADES for change in _upgrade(bench, job, lever)]
    most = " or ".join(f"{limit.over} {limit.value}" for limit in room)
    said = f"It fits as it is. With all else the same it could be: {most}." if most else "It fits as it is."
    return Plan(ledger, (), None, said, tuple(room), tuple(upgrades))


def _limit(bench: Bench, job: TrainJob, over: str) -> list[Limit]:
    """Return the largest value of an input, none where a larger one is refused."""
    try:
        return [largest(bench.found, job, bench.fleet, over, bench)]
    except UnsupportedError:
        return []


def _upgrade(bench: Bench, job: TrainJob, lever: Lever) -> list[Change]:
    """Return what a lever of luxury costs in memory, where it can be estimated."""
    after = [each for each in lever.applied(job, bench.found.model) if not bench.refusal(each)]
    return [change_of(bench, job, [(lever, delta(job, each))]) for each in after]
