"""What a real CPU run allocates and frees, without any dispatch mode: torch.profiler's memory events as a Stream.

It sees also what kernels take for themselves and the random states in host memory, and it sees gradients summed in
place, which no trace does (see docs/trace.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from oomph.job import InferJob, TrainJob
from oomph.referee import inference, jobs, models
from oomph.referee.trace import collected
from oomph.stream import Event, Stream


class _Silent:
    """Follows a job up to the step that counts and starts the profiler there."""

    def __init__(self, profiler: Any) -> None:
        self.profiler = profiler

    def mark(self, name: str) -> None:
        if name == "end" and self.profiler.profiler is not None:
            self.profiler.stop()

    def ready(self, model: Any, optimizer: Any, reference: Any = None) -> None:
        self.profiler.start()

    def passing(self, work: str) -> None:
        pass

    def backward_done(self, model: Any) -> None:
        pass

    def updated(self, optimizer: Any) -> None:
        pass


def profile(raw_config: Mapping[str, Any], job: TrainJob | InferJob) -> Stream:
    """Run a job for real on the CPU and return the events of the step that counts, without what was there before.

    Bytes are as requested; frees of what was allocated before the step are left out, so `live` starts from 0.
    """
    with collected():
        model = models.build(raw_config, job)
        profiler = torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        run: Any = jobs.train if isinstance(job, TrainJob) else inference.infer
        run(model, job, _Silent(profiler))
    return _stream(profiler)


def _stream(profiler: Any) -> Stream:
    """Return the profiler's allocations and frees in time, matched by address."""
    tree = profiler.profiler.kineto_results.experimental_event_tree()
    found = sorted(_memory(tree), key=lambda event: event.start_time_ns)
    stream, at, count = Stream(), dict[int, int](), 0
    for fields in (event.extra_fields for event in found):
        if fields.alloc_size > 0:
            at[fields.ptr] = count
            stream.events.append(Event(count, fields.alloc_size))
            count += 1
        elif fields.ptr in at:
            stream.events.append(Event(at.pop(fields.ptr), fields.alloc_size))
    return stream


def _memory(tree: Any) -> Iterator[Any]:
    for event in tree:
        if event.name == "[memory]":
            yield event
        yield from _memory(event.children)
