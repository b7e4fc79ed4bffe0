"""Runs with batches of many lengths: what training that does not pack its samples does to the caching allocator.

A batch is as long as its longest sample, so nearly every step asks for other sizes than the one before. What was
cached for one length is cut up by shorter ones and too small for longer ones, and reserved memory grows over hundreds
of steps, in published runs to twice what a step of the longest batch alone reserves. What is allocated at the peak
stays that of the longest batch.

How much is reserved in the end hangs on the order of the lengths, which is chance. So several runs are played, each
with an order of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache

from oomph.allocator.config import SMALL_BYTES
from oomph.job import TrainJob
from oomph.job_words import RANKED
from oomph.lengths import Lengths
from oomph.model import Model
from oomph.stream import Event, Stream
from oomph.streams import KEPT, Script, job_script

RUNS = 3
STEPS = 100  # of a run; by then most of the growth is over, but not in every run


def runs(model: Model, job: TrainJob) -> list[Stream]:
    """Return the events of each run: a first step, then steps of all lengths.

    Of many micro-batches two are played, both of one length; adapters' gradients are small, so there one will do.
    """
    lengths, drop = Lengths.parse(job.lengths), job.long_samples == "drop"
    micro_batches = 1 if job.method in RANKED else min(job.accumulation, 2)
    step = replace(job, lengths="fixed", steady=True, accumulation=micro_batches)
    orders = [lengths.batches(job.batch, job.seq_len, drop, STEPS, random.Random(run)) for run in range(RUNS)]
    return [_run(model, step, order) for order in orders]


def _run(model: Model, job: TrainJob, lengths: list[int]) -> Stream:
    """Return the events of one run; from the second step on those of the large pool alone.

    Requests of the small pool have segments of their own, which hardly grow. What a step leaves in the place of what it
    found is what the next one finds there.
    """
    script, sums = job_script(model, replace(job, seq_len=lengths[0]))
    first = script.stream(sums)
    events, alive, lanes = list(first.events), first.live_at(len(first.events)), dict(first.lanes)
    found = _second_step(script).left
    free = 1 + max(event.ordinal for event in events)
    for length in lengths[1:]:
        script, sums = job_script(model, replace(job, seq_len=length))
        sizes, again = script.class_bytes(sums), _second_step(script)
        now = dict(zip(again.there, found, strict=True))
        for at in _large(script, tuple(size > SMALL_BYTES for size in sizes)):
            if at >= 0:
                n_bytes = sizes[script.kinds[at]]
                now[at], alive[free] = free, n_bytes
                events.append(Event(free, n_bytes))
                if at in script.lanes:
                    lanes[free] = script.lanes[at]
                free += 1
            elif now[~at] in alive:
                ordinal = now[~at]
                events.append(Event(ordinal, -alive.pop(ordinal)))
        found = [now.get(at, -1) for at in again.left]
    return Stream(events, first.marks, first.labels, lanes)


@dataclass(frozen=True)
class _SecondStep:
    """What the second step of a script finds, does, and leaves in the place of what it found; all that is new and in
    nobody's place is freed at its end."""

    there: list[int]
    events: list[int]
    left: list[int]


@lru_cache(maxsize=KEPT)
def _second_step(script: Script) -> _SecondStep:
    begin = next(position for position, name in script.marks if name == "end")
    there = _alive(script.events[:begin])
    end = _alive(script.events)
    stays, found = set(end), set(there)
    places = iter([at for at in end if at not in found])
    left = [at if at in stays else next(places, -1) for at in there]
    return _SecondStep(there, [*script.events[begin:], *(~at for at in places)], left)


@lru_cache(maxsize=KEPT)
def _large(script: Script, are_large: tuple[bool, ...]) -> list[int]:
    """Return what the second step does with tensors of large classes and with what it finds."""
    again, kinds = _second_step(script), script.kinds
    there = set(again.there)
    return [at for at in again.events if (are_large[kinds[at]] if at >= 0 else ~at in there or are_large[kinds[~at]])]


def _alive(events: list[int]) -> list[int]:
    """Return the allocations without a free, in order."""
    freed = {~at for at in events if at < 0}
    return [at for at in events if at >= 0 and at not in freed]
