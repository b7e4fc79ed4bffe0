"""Estimates for measured rows: models from the catalogue or from a row's own config, never from the network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

from oomph.allocator import Config
from oomph.answer import Subject, for_job, ledger
from oomph.constants import other_versions, rule
from oomph.device_memory import SMALL_SEGMENT
from oomph.devices import Device, Fleet, find
from oomph.errors import OomphError, UsageError
from oomph.header import Source
from oomph.job import TrainJob, shortened
from oomph.job_ledger import job_ledger
from oomph.ledger import Ledger
from oomph.score.reading import Answer, refuse, shown
from oomph.steps import Step, step
from oomph.structure import Job
from oomph.units import parse_size

OLD = Config(by_address=True)  # the allocator of torch up to 2.12, which measured all published rows
KEPT = 256  # ledgers of equal jobs that are kept
MAX_PASSES = 2048  # layers times micro-batches or decoded tokens: what may be played for one row
_CAPACITY = re.compile(r"\((\d{1,4}\.\d{1,6} GiB)\)")  # as a program printed it: "Tesla T4 (14.741 GiB)"
_ASIDE = re.compile(r"\s*\([^)]*\)")


class Case:
    """One job on one GPU, estimated when it is first asked for. Equal cases of catalogued models share the answer."""

    def __init__(self, found: Subject, job: Job, device: Device | None, config: Config = OLD) -> None:
        self.subject, self.job, self.device, self.config = for_job(found, job), job, device, config

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger of the job."""
        job = shortened(self.job)
        repeats = job.accumulation if isinstance(job, TrainJob) else 1 + job.decode
        if self.subject.model.num_layers * repeats > MAX_PASSES:
            raise refuse("too long", f"{self.subject.model.num_layers} layers, {repeats} times")
        if self.subject.source.origin == "catalogue":
            gpu = (self.device.id, self.device.program_bytes, self.device.kernel_loading) if self.device else None
            return _known(self.subject.source.name, self.job, gpu, self.config)
        return job_ledger(self.subject, self.job, Fleet(self.device) if self.device else None, self.config)

    def figure(self, name: str) -> Answer:
        """Return one of the three figures: allocated, reserved, device."""
        if name == "device" and self.device is None:
            raise refuse("gpu", "not known, and device memory depends on it")
        found = self.ledger.figure(name)
        if found is None:
            raise refuse(f"{name} memory", "not modelled for this job")
        return Answer(found.n_bytes, found.safe_bytes)

    def resident(self) -> Answer:
        """Return what is allocated when the job has ended, in whole blocks as torch counts them."""
        end, most = self.ledger.resident_bytes, self.figure("allocated")
        if end is None:
            raise refuse("resident memory", "not modelled for this job")
        return Answer(end, end + most.safe_bytes - most.n_bytes)

    def weights(self) -> Answer:
        """Return what parameters and buffers take before the first step."""
        return self._answer(self._step.resident, 0)

    def warmed_up(self, quantised: bool) -> Answer:
        """Return what is allocated when the job has ended, where the allocator was warmed up before the model came.

        Tensors are then cut from one segment, of which no rest is too small to be cut off. transformers 4.51 makes one
        as large as the model, or half as large if it is quantised: bytes over 2 or 4, as elements of two (4.51.3,
        modeling_utils.py, caching_allocator_warmup).
        """
        cut, apart = self._answer(self._step.end, 1), self.resident()
        if not quantised:
            return cut
        half = (apart.n_bytes - cut.n_bytes) // 2
        return Answer(cut.n_bytes + half, apart.safe_bytes)

    def after_forward(self) -> Answer:
        """Return what is allocated when the loss is known, the forward pass' cuBLAS workspace among it."""
        return self._answer(self._step.forward_end, 1)

    def after_backward(self) -> Answer:
        """Return what is allocated when the backward pass is over and outputs are still held."""
        found = next(one for one in reversed(self._step.stretches) if one.name == "after backward")
        return self._answer(found.start, 2)

    def _answer(self, n_bytes: Any, workspaces: int) -> Answer:
        size = rule("cublas_workspace", self.device)
        point = int(n_bytes) + workspaces * size.n_bytes
        around = SMALL_SEGMENT + other_versions(point).high + workspaces * (size.high - size.n_bytes)
        return Answer(point, point + around)

    @cached_property
    def _step(self) -> Step:
        return step(self.subject.model, self.job)

    def must_not_fit(self) -> Answer:
        """Return the device figure with the verdict on it."""
        answer, verdict = self.figure("device"), self.ledger.verdict
        if verdict is None:
            raise refuse("verdict", "there is none for this job")
        return replace(answer, status=verdict.status)


@lru_cache(maxsize=KEPT)
def _known(name: str, job: Job, gpu: tuple[str, int | None, str] | None, config: Config) -> Ledger:
    fleet = Fleet(replace(find(gpu[0]), program_bytes=gpu[1], kernel_loading=gpu[2])) if gpu else None
    return job_ledger(for_job(catalogued(name), job), job, fleet, config)


@lru_cache(maxsize=KEPT)
def catalogued(name: str) -> Subject:
    """Return a model by the name a row gives it; refused where the catalogue has none of that name."""
    from oomph.families import model_from_config
    from oomph.sources import catalogue

    source = catalogue.find(name) if len(name) <= 200 else None
    if source is None or source.config is None:
        raise refuse("not in the catalogue", shown(name))
    return Subject(source, model_from_config(source.config, source.name), "config")


def configured(name: str, config: Any) -> Subject:
    """Return the model of a config that came with a row."""
    from oomph.families import model_from_config

    if not isinstance(config, Mapping):
        raise refuse("config", "not an object")
    return Subject(Source(name, "config", config), model_from_config(config, name), "config")


def device(text: Any, total_bytes: int | None = None) -> Device | None:
    """Return the GPU a row names, None where it names none that is known.

    The memory that a program printed on it, given or between brackets, replaces the table's.
    """
    if not isinstance(text, str):
        return None
    printed = _CAPACITY.search(text[:200])
    try:
        known = find(_ASIDE.sub("", text[:200]))
    except UsageError:
        return None
    seen = total_bytes or (parse_size(printed[1]) if printed else None)
    return replace(known, program_bytes=seen) if seen else known


def weights(found: Subject, format_name: str | None) -> Answer:
    """Return the weights in a named format (None: as published); the upper bound has the allocator's rounding in it."""
    weighed = ledger(found, format_name, None, ())
    context = [item for item in weighed.items if item.name == "CUDA context"]
    return Answer(weighed.total_bytes, weighed.safe_bytes - sum(item.safe_bytes for item in context))


def reason(error: OomphError) -> str:
    """Return why something is refused, without what a person could do about it."""
    return error.problem.rstrip(".")
