"""Statistics of outcomes: plain functions on lists, by quantity and by group."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from oomph.score.reading import LEFT, MUST_NOT_FIT
from oomph.score.scoring import Outcome

PERCENT, P90 = 100, 90


@dataclass(frozen=True)
class Summary:
    """How far off a list of outcomes is. Errors are shares of the measurement; None where nothing was estimated.

    `bias` is the median of the signed errors, `under` the share of rows predicted below the measurement (what runs out
    of memory), `within_safe` the share measured within the safe bound. Of jobs that ran out of memory only the
    last two count: `called_fitting` and `called_tight`.
    """

    n: int
    refused: int
    reasons: dict[str, int]
    median: float | None = None
    mean: float | None = None
    p90: float | None = None
    max: float | None = None
    bias: float | None = None
    under: float | None = None
    within_safe: float | None = None
    called_fitting: int = 0
    called_tight: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON knows it."""
        return dict(vars(self))


def summary(outcomes: Sequence[Outcome]) -> Summary:
    """Return the statistics of outcomes of one quantity."""
    reasons = Counter(one.refused for one in outcomes if one.refused is not None)
    scored = [one for one in outcomes if one.refused is None]
    counts = (len(scored), sum(reasons.values()), dict(reasons.most_common()))
    signed = [one.relative_error for one in scored if one.relative_error is not None]
    if not signed:
        told = Counter(one.status for one in scored)
        return Summary(*counts, called_fitting=told["fits"], called_tight=told["tight"])
    errors = [abs(error) for error in signed]
    return Summary(
        *counts,
        median=median(errors),
        mean=fmean(errors),
        p90=percentile(errors, P90),
        max=max(errors),
        bias=median(signed),
        under=share(error < 0 for error in signed),
        within_safe=share(_is_safe(one) for one in scored),
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the nearest-rank percentile: the smallest value that so many percent of all do not exceed.

    >>> percentile([15, 20, 35, 40, 50], 30), percentile([1, 2], 90)
    (20, 2)
    """
    rank = math.ceil(len(values) * percent / PERCENT)
    return sorted(values)[max(rank, 1) - 1]


def share(which: Iterable[bool]) -> float:
    """Return the share of True.

    >>> share([True, False, True, True])
    0.75
    """
    return fmean(which)


def _is_safe(one: Outcome) -> bool:
    """Tell whether a measurement is within its bound: of what is left to requests a lower one."""
    if one.measured is None or one.safe is None:
        return False
    return one.measured >= one.safe if one.quantity in LEFT else one.measured <= one.safe


def by_quantity(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Return the outcomes of each quantity, those with most estimates first, runs out of memory last."""
    found: dict[str, list[Outcome]] = {}
    for one in outcomes:
        found.setdefault(one.quantity, []).append(one)
    return dict(sorted(found.items(), key=lambda pair: (pair[0] == MUST_NOT_FIT, -_scored(pair[1]))))


def by_group(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Return the outcomes of each group, by name."""
    found: dict[str, list[Outcome]] = {}
    for one in outcomes:
        found.setdefault(one.group, []).append(one)
    return dict(sorted(found.items()))


def _scored(outcomes: Sequence[Outcome]) -> int:
    return sum(one.refused is None for one in outcomes)


def worst(outcomes: Iterable[Outcome], most: int) -> list[Outcome]:
    """Return the estimates that are furthest off, worst first."""
    scored = [one for one in outcomes if one.relative_error is not None]
    return sorted(scored, key=lambda one: abs(one.relative_error or 0), reverse=True)[:most]


def to_dict(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return rows and summaries as JSON knows them."""
    return {
        "rows": [one.to_dict() for one in outcomes],
        "summary": {
            quantity: {
                **summary(found).to_dict(),
                "groups": {group: summary(each).to_dict() for group, each in by_group(found).items()},
            }
            for quantity, found in by_quantity(outcomes).items()
        },
    }
