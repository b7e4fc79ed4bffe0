"""The cheapest combination of levers that makes a job fit, found by going up a ladder and then taking back.

Levers are tried in the order of what they cost. Each that lowers the peak is pulled as far as it goes, until the job
fits; then, from the dearest on, whatever is not needed is taken back, or pulled less far. The answer is one from which
nothing can be left out. Nothing is left to chance, so the same question has the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.job import TrainJob
from oomph.planning.bench import Bench
from oomph.planning.change import Step, changed, settings, together
from oomph.planning.lever import Lever


def combination(bench: Bench, job: TrainJob, levers: Sequence[Lever]) -> list[Step] | None:
    """Return the levers to pull, with what each sets; None where all of them are not enough."""
    steps: list[Step] = []
    for lever in levers:
        found = settings(bench, lever, together(job, steps))
        if found:
            steps.append(found[-1])
            if bench.fits(together(job, steps)):
                return _needed(bench, job, steps)
    return None


def _needed(bench: Bench, job: TrainJob, steps: list[Step]) -> list[Step]:
    """Return the steps without those that are not needed, the dearest left out first."""
    for step in sorted(steps, key=lambda one: one[0].price, reverse=True):
        at = steps.index(step)
        for milder in _milder(bench, job, steps, at):
            less = changed(job, milder)
            if less is not None and not bench.refusal(less) and bench.fits(less):
                steps = milder
                break
    return steps


def _milder(bench: Bench, job: TrainJob, steps: list[Step], at: int) -> list[list[Step]]:
    """Return the steps without one of them, then with milder settings of it."""
    before, (lever, fields), after = steps[:at], steps[at], steps[at + 1 :]
    others = [one for one in settings(bench, lever, together(job, before)) if one[1] != fields]
    return [[*before, *after], *([*before, one, *after] for one in others)]
