"""What a lever is: a change of a job that takes less memory, and what is paid for it, in words with a source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

from oomph.errors import UsageError
from oomph.job import TrainJob
from oomph.model import Model

Changes = Callable[[TrainJob, Model], Iterable[TrainJob]]
Delta = Mapping[str, Any]  # fields of a job with their new values


class Price(IntEnum):
    """What is paid for less memory, the cheapest first: plans go through the levers in this order."""

    NOTHING = 0  # the same numbers, no slower
    SPEED = 1  # the same numbers, later
    ROUNDING = 2  # nearly the same numbers: published runs end at the same loss
    TRAINING = 3  # another way of training
    DATA = 4  # the model sees something else

    @property
    def words(self) -> str:
        """What is paid, for a table."""
        return PRICES[self]


PRICES = {
    Price.NOTHING: "nothing",
    Price.SPEED: "speed",
    Price.ROUNDING: "a little exactness",
    Price.TRAINING: "another way of training",
    Price.DATA: "less or other data",
}


@dataclass(frozen=True)
class Lever:
    """A change of a job.

    `changes` yields the changed jobs, the mildest first; none where the lever does not apply. `cost` says in one
    sentence what it costs in speed and quality, `source` where that is known from.
    """

    name: str
    price: Price
    cost: str
    source: str
    changes: Changes

    def applied(self, job: TrainJob, model: Model) -> Iterator[TrainJob]:
        """Yield the changed jobs as far as what they set goes together with the rest of the job."""
        try:
            yield from self.changes(job, model)
        except UsageError:
            return


def setting(when: Callable[[TrainJob], bool] | None = None, **values: Any) -> Changes:
    """Return the changes of a lever that sets fields to values, where they are not so yet (and `when` says yes).

    Where these values do not go together with the rest of a job the lever does not apply.

    >>> lever = setting(hold_logits=False)
    >>> [job.hold_logits for job in lever(TrainJob(), None)], list(lever(TrainJob(hold_logits=False), None))
    ([False], [])
    """

    def changes(job: TrainJob, model: Model) -> Iterable[TrainJob]:
        changed = replaced(job, values)
        if changed is not None and changed != job and (when is None or when(job)):
            yield changed

    return changes


def replaced(job: TrainJob, fields: Delta) -> TrainJob | None:
    """Return a job with other fields, None where they do not go together.

    >>> replaced(TrainJob(packing=True), {"padding": True}) is None
    True
    """
    try:
        return replace(job, **fields)
    except UsageError:
        return None


def halving(name: str, least: int, then: Callable[[int], Delta] | None = None) -> Changes:
    """Return the changes of a lever that halves a size, rounded down, again and again as far as `least`; sizes that do
    not go together with the rest of a job are left out.

    `then` gives what else changes with a factor by which the size went down; where there is one, only whole factors do.

    >>> [job.seq_len for job in halving("seq_len", 500)(TrainJob(seq_len=2048), None)]
    [1024, 512]
    >>> both = halving("batch", 1, lambda factor: {"accumulation": factor})
    >>> [(job.batch, job.accumulation) for job in both(TrainJob(batch=6), None)]
    [(3, 2)]
    """

    def changes(job: TrainJob, model: Model) -> Iterable[TrainJob]:
        whole = getattr(job, name)
        size, factor = whole // 2, 2
        while size >= least and (then is None or size * factor == whole):
            changed = replaced(job, {name: size, **(then(factor) if then else {})})
            if changed is not None:
                yield changed
            size, factor = size // 2, factor * 2

    return changes


def delta(before: Any, after: Any) -> dict[str, Any]:
    """Return what one job has otherwise than another of its kind.

    >>> delta(TrainJob(batch=4), TrainJob(batch=2, accumulation=2))
    {'batch': 2, 'accumulation': 2}
    """
    names = [field.name for field in fields(before)]
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}
