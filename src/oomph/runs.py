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

from oomph.allocator import Again
from oomph.allocator.config import SMALL_BYTES
from oomph.job import TrainJob
from oomph.job_words import RANKED
from oomph.lengths import Lengths
from oomph.model import Model
from oomph.recipe import Sums
from oomph.stream import Stream
from oomph.streams import KEPT, Script, job_script

RUNS = 7
STEPS = 100  # of a run; by then most of the growth is over, but not in every run


@dataclass(frozen=True)
class Run:
    """One run: the stream of its first step, and what the steps after it ask of the large pool.

    Requests of the small pool have segments of their own, which hardly grow.
    """

    first: Stream
    then: list[Again]


def runs(model: Model, job: TrainJob) -> list[Run]:
    """Return the runs: a first step each, then steps of all lengths.

    Of many micro-batches two are played, both of one length; adapters' gradients are small, so there one will do.
    """
    lengths, drop = Lengths.parse(job.lengths), job.long_samples == "drop"
    micro_batches = 1 if job.method in RANKED else min(job.accumulation, 2)
    step = replace(job, lengths="fixed", steady=True, accumulation=micro_batches)
    orders = [lengths.batches(job.batch, job.seq_len, drop, STEPS, random.Random(run)) for run in range(RUNS)]
    return [_run(model, step, order) for order in orders]


def _run(model: Model, job: TrainJob, lengths: list[int]) -> Run:
    """Return one run; what a step leaves in the place of what it found is what the next one finds there."""
    script, sums = job_script(model, replace(job, seq_len=lengths[0]))
    first, left, then = script.stream(sums), _second_step(script).left, list[Again]()
    for length in lengths[1:]:
        script, sums = job_script(model, replace(job, seq_len=length))
        then.append(_again(script, sums, left))
        left = _second_step(script).left
    return Run(first, then)


def _again(script: Script, sums: Sums, left: list[int]) -> Again:
    """Return the second step of a script after a step that left these."""
    of_class, kinds = script.class_bytes(sums), script.kinds
    events = _large(script, tuple(size > SMALL_BYTES for size in of_class))
    sizes = [of_class[kinds[at]] if at >= 0 else 0 for at in events]
    return Again(events, sizes, list(zip(left, _second_step(script).there, strict=True)), script.lanes)


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
