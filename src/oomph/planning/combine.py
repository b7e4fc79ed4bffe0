"""The cheapest combination of levers that makes a job fit, found by going up a ladder and then taking back.

Always the cheapest lever that lowers the peak is pulled, as far as it goes, until the job fits: also one passed by
before, because a peak moves. Then, from the dearest on, whatever is not needed is taken back, or pulled less far. The
answer is one from which nothing can be left out. Nothing is left to chance: the same question has the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oomph.job import TrainJob
from oomph.planning.bench import Bench
from oomph.planning.change import Step, changed, settings, together
from oomph.planning.lever import Lever


def combination(bench: Bench, job: TrainJob, levers: Sequence[Lever]) -> list[Step] | None:
    """Return the levers to pull, with what each sets; None where all of them are not enough."""
    steps: list[Step] = []
    left = list(levers)
    while left:
        now = together(job, steps)
        pulled = next((found for lever in left if (found := settings(bench, lever, now))), None)
        if pulled is None:
            return None
        steps.append(pulled[-1])
        left.remove(pulled[-1][0])
        if bench.fits(together(job, steps)):
            return _needed(bench, job, steps)
    return None


def _needed(bench: Bench, job: TrainJob, steps: list[Step]) -> list[Step]:
    """Return the steps without those that are not needed.

    What heights alone say is taken first, because a ledger takes a hundred times as long; then each step is judged.
    """
    guessed = _least(bench, job, steps, bench.guess(together(job, steps)))
    enough = bench.fits(together(job, guessed))
    return _least(bench, job, guessed if enough else steps, bench.fits)


def _least(bench: Bench, job: TrainJob, steps: list[Step], fits: Callable[[TrainJob], bool]) -> list[Step]:
    """Return the steps from which nothing can be left out, the dearest left out first."""
    less: list[Step] | None = steps
    while less is not None:
        steps, less = less, _less(bench, job, less, fits)
    return steps


def _less(bench: Bench, job: TrainJob, steps: list[Step], fits: Callable[[TrainJob], bool]) -> list[Step] | None:
    """Return the steps with one of them left out, or milder, if that is enough too."""
    for step in sorted(steps, key=lambda one: one[0].price, reverse=True):
        for milder in _milder(bench, job, steps, steps.index(step)):
            after = changed(job, milder)
            if after is not None and not bench.refusal(after) and fits(after):
                return milder
    return None


def _milder(bench: Bench, job: TrainJob, steps: list[Step], at: int) -> list[list[Step]]:
    """Return the steps without one of them, then with milder settings of it."""
    before, (lever, fields), after = steps[:at], steps[at], steps[at + 1 :]
    start = changed(job, before)  # None where what came before does not go together without a step that was left out
    others = settings(bench, lever, start) if start is not None and not bench.refusal(start) else []
    milder = others[: others.index((lever, fields))] if (lever, fields) in others else []
    return [[*before, *after], *([*before, one, *after] for one in milder)]
