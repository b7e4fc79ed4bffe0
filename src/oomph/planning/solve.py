"""The largest value of one input of a job with which it still fits: exact, one more does not.

Heights of a step are milliseconds, the allocator takes a hundred times as long. So the search asks heights for a guess:
the largest value whose tensors are less than those of one that does not fit by what was missing there. It goes half the
way to it, because the cache can make a larger job fit where a smaller one does not. Each value is judged by the
allocator, until one fits and the next does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from oomph.answer import Subject
from oomph.device_map import placed
from oomph.devices import Fleet
from oomph.errors import UnsupportedError, UsageError, close_matches
from oomph.job import InferJob, TrainJob
from oomph.ledger import Ledger
from oomph.planning.bench import Bench
from oomph.planning.result import Limit, Limits
from oomph.structure import Job, decoder_stack, with_layers
from oomph.units import human

MOST = 2**24  # a value beyond which nobody looks
DEFAULT = ("batch", "seq_len")
GUESSES = 12  # after which the search halves what is left, whatever the heights say


@dataclass(frozen=True)
class Axis:
    """An input to search over: the field of a job, or "layers" of the model; `kinds` are the jobs that have it."""

    field: str
    what: str  # with {} for the number
    kinds: tuple[type, ...] = (TrainJob, InferJob)


AXES = {
    "batch": Axis("batch", "{} sequences in a micro-batch", (TrainJob,)),
    "concurrency": Axis("batch", "{} sequences at a time", (InferJob,)),
    "seq": Axis("seq_len", "sequences of {} tokens", (TrainJob,)),
    "context": Axis("seq_len", "a prefill of {} tokens", (InferJob,)),
    "rank": Axis("rank", "adapters of rank {}", (TrainJob,)),
    "layers": Axis("layers", "{} layers"),
}


def largest(found: Subject, job: Job, fleet: Fleet, over: str, bench: Bench | None = None) -> Limit:
    """Return the largest value of an axis with which a job fits on a device.

    Raises UsageError for an axis that the job does not have, UnsupportedError as the engine does.
    """
    axis = _axis(over, job)
    most, why = _most(found, job, axis)
    least = _least(job, axis)
    search = Search(partial(_bench_of, found, job, fleet, axis, bench), most, least)
    known = len(decoder_stack(found.model)[1].layers) if axis.field == "layers" else getattr(job, axis.field)
    least = search.least = search.accepted(known)
    value = search.run()
    if search.most < most:
        most, why = search.most, "that is as many as oomph plays"
    at = search.ledger(value) if value else None
    beyond = search.ledger(max(value + 1, least)) if value < most else None
    bound = "memory" if beyond else why
    return Limit(
        over, value, bound, _sentence(axis, value or least - 1, at, beyond, why), at, beyond, search.odd(value)
    )


def limits(found: Subject, job: Job, fleet: Fleet, over: Sequence[str]) -> Limits:
    """Return the largest values of several axes, each with everything else as the job has it.

    Without any named they are those that people ask for: how many sequences, and how long.
    """
    job = placed(found.model, job, fleet.device)
    bench = Bench(found, fleet)
    names = over or [name for name, axis in AXES.items() if axis.field in DEFAULT and isinstance(job, axis.kinds)]
    return Limits(bench.ledger(job), tuple(largest(found, job, fleet, name, bench) for name in names))


def _axis(over: str, job: Job) -> Axis:
    has = (*job.axes, "layers")
    mine = {name: axis for name, axis in AXES.items() if isinstance(job, axis.kinds) and axis.field in has}
    if over not in mine:
        hint = close_matches(over, mine) or f"Choose one of {', '.join(mine)}."
        raise UsageError(f"{over!r} is nothing this job could have more of.", hint)
    return mine[over]


PAIRED = 2  # answers of which each can stand for the other's mismatch


def _least(job: Job, axis: Axis) -> int:
    """Return the smallest value that a job can have: a sequence has a token to score, KTO's batch a mismatched one."""
    if not isinstance(job, TrainJob):
        return 1
    if axis.field == "seq_len":
        return job.prompt_len + 1
    return PAIRED if axis.field == "batch" and job.objective == "kto" else 1


def _most(found: Subject, job: Job, axis: Axis) -> tuple[int, str]:
    """Return the largest value that makes sense, and what stands in the way of more."""
    context = found.model.context_length
    if axis.field == "seq_len" and context:
        written = job.decode if isinstance(job, InferJob) else 0
        return max(1, context - written), f"the model is made for {context} tokens"
    if axis.field == "layers" and len(decoder_stack(found.model)[1].groups()) > 1:
        raise UsageError("The layers of this model differ: there is no telling which one more would be.")
    return MOST, f"{MOST} is where oomph stops to look"


def _bench_of(found: Subject, job: Job, fleet: Fleet, axis: Axis, bench: Bench | None, value: int) -> tuple[Bench, Job]:
    """Return a bench and the job to put on it for a value."""
    if axis.field == "layers":
        return Bench(replace(found, model=with_layers(found.model, value)), fleet), job
    size: dict[str, Any] = {axis.field: value}
    return bench or Bench(found, fleet), replace(job, **size)


class Search:
    """A search for the largest value that fits; `place` gives the bench and the job for one."""

    def __init__(self, place: Callable[[int], tuple[Bench, Job]], most: int, least: int = 1) -> None:
        self.most, self.least = most, least
        self._place = place
        self._placed: dict[int, tuple[Bench, Job]] = {}

    def at(self, value: int) -> tuple[Bench, Job]:
        """Return the bench and the job of a value."""
        if value not in self._placed:
            self._placed[value] = self._place(value)
        return self._placed[value]

    def ledger(self, value: int) -> Ledger:
        """Return the ledger of a value."""
        bench, job = self.at(value)
        return bench.ledger(job)

    def accepted(self, known: int) -> int:
        """Return the smallest value that is not refused, up to a known one: images and candidates need some tokens."""
        low, high = self.least - 1, self.least if self._is_accepted(self.least) else max(known, self.least)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._is_accepted(middle) else (middle, high)
        return high

    def _is_accepted(self, value: int) -> bool:
        try:
            bench, job = self.at(value)
            bench.peak(job)
        except UsageError:
            return False
        return True

    def run(self) -> int:
        """Return a value that fits, the next one not, or the largest there is; 0 where the least does not fit."""
        if not self.fits(self.least):
            return 0
        low, high = self.least, min(self.most, self._tensors_fit(self.least, self.most)) + 1
        value, guesses = high - 1, 0
        while high - low > 1:
            guesses += 1
            if self.fits(value):
                low, guess = value, high
            else:
                high, guess = value, self._without(value, low) if guesses < GUESSES else low
            value = min(max((guess + value) // 2, low + 1), high - 1)
        return low

    def fits(self, value: int) -> bool:
        """Say whether the upper bound of a value fits."""
        bench, job = self.at(value)
        return bench.fits(job)

    def _without(self, value: int, low: int) -> int:
        """Return the largest value below one that does not fit whose tensors are less by what is missing for it."""
        bench, job = self.at(value)
        return self._tensors_fit(low, value - 1, bench.peak(job) - bench.missing(job))

    def odd(self, value: int) -> tuple[int, ...]:
        """Return larger values that fit although one more than `value` does not, of a few that are looked at."""
        last = self._tensors_fit(value, self.most) if 0 < value < self.most else 0
        looked_at = sorted({value + 2, (value + 2 + last) // 2, last})
        return tuple(one for one in looked_at if value + 1 < one <= last and self.fits(one))

    def _tensors_fit(self, low: int, most: int, room: int | None = None) -> int:
        """Return the largest value up to `most` whose tensors are no more than `room`; `low` if none above is.

        Without `room` it is what the device leaves at most.
        """

        def enough(value: int) -> bool:
            bench, job = self.at(value)
            try:
                return bench.peak(job) <= (bench.room if room is None else room)
            except UnsupportedError:  # a scan of more tokens than are played, where fewer were: no value beyond is
                self.most = min(self.most, value - 1)
                return False

        step = 1
        while low + step <= most and enough(low + step):
            low, step = low + step, step * 2
        high = min(low + step, most + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if enough(middle) else (low, middle)
        return low


def _sentence(axis: Axis, value: int, at: Ledger | None, beyond: Ledger | None, why: str) -> str:
    """Return the limit, and what sets it, in words."""
    one_more = (
        f"{_number(axis, value + 1)}: {beyond.verdict.sentence} {beyond.why}" if beyond and beyond.verdict else ""
    )
    if at is None:
        return f"Not even {one_more}"
    most = f"At most {_number(axis, value)}"
    if beyond is None:
        return f"{most}: {why}, and memory would do for that ({_takes(at)})."
    return f"{most} ({_takes(at)}). With {one_more}"


def _number(axis: Axis, value: int) -> str:
    """Return a value in words: 1 sequence at a time."""
    return (
        re.sub(r"^((?:\D*\s)?1 [a-z]+?)s\b", r"\1", axis.what.format(value)) if value == 1 else axis.what.format(value)
    )


def _takes(ledger: Ledger) -> str:
    figure = ledger.figure("device")
    assert figure is not None  # there is a device
    return f"{human(figure.n_bytes)}, at most {human(figure.safe_bytes)}"
