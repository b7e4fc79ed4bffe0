"""A bench on which changed jobs are estimated: heights first, in milliseconds, whole ledgers where one could fit."""

from __future__ import annotations

from collections.abc import Callable

from oomph.answer import Subject
from oomph.constants import measured
from oomph.device_memory import fits
from oomph.devices import Fleet
from oomph.errors import OomphError, UsageError
from oomph.job import TrainJob
from oomph.job_ledger import job_ledger
from oomph.ledger import Figure, Ledger
from oomph.planning.result import TOO_BIG
from oomph.steps import step
from oomph.streams import job_stream
from oomph.structure import Job


class Bench:
    """One model on one device; every job is estimated once.

    A ledger plays the allocator through every event. It is not asked where the peak of tensors alone, with what the
    process holds beside them, is more than the device shows: such a job is too big.
    """

    def __init__(self, found: Subject, fleet: Fleet) -> None:
        self.found, self.fleet = found, fleet
        self.room = fleet.device.capacity_bytes - measured("cuda_context", fleet.device).n_bytes
        self._peaks: dict[Job, int] = {}
        self._ledgers: dict[Job, Ledger] = {}
        self._missing: dict[Job, int] = {}

    def peak(self, job: Job) -> int:
        """Return the most bytes of tensors; raises UnsupportedError as the engine does."""
        if isinstance(job, TrainJob) and job.mixed:
            fix = "Leave --lengths out, then ask oomph train with what comes out."
            raise UsageError("Plans and largest values are of batches of one length.", fix)
        if job not in self._peaks:
            self._peaks[job] = int(step(self.found.model, job).peak)
        return self._peaks[job]

    def refusal(self, job: Job) -> str:
        """Return why a job cannot be estimated; "" where it can."""
        try:
            self.peak(job)
        except OomphError as error:
            return error.problem
        return ""

    def ledger(self, job: Job) -> Ledger:
        """Return a job's ledger on the device."""
        if job not in self._ledgers:
            self._ledgers[job] = job_ledger(self.found, job, self.fleet)
        return self._ledgers[job]

    def status(self, job: Job) -> str:
        """Return fits, tight or too_big."""
        if self.peak(job) > self.room:
            return TOO_BIG
        verdict = self.ledger(job).verdict
        assert verdict is not None  # there is a device
        return verdict.status

    def fits(self, job: Job) -> bool:
        """Say whether the upper bound fits."""
        return self.missing(job) == 0

    def missing(self, job: Job) -> int:
        """Return how many bytes the device would have to have more at least, 0 where the upper bound fits.

        The allocator alone says so, in a third of a ledger's time.
        """
        if job not in self._missing:
            missing = max(0, self.peak(job) - self.room)
            if not missing:
                stream, device = job_stream(self.found.model, job), self.fleet.device
                missing = fits(stream, device.capacity_bytes, device).missing_bytes
            self._missing[job] = missing
        return self._missing[job]

    def device(self, job: Job) -> Figure | None:
        """Return what the GPU shows, None where it was not worth a ledger."""
        return self.ledger(job).figure("device") if self.peak(job) <= self.room else None

    def guess(self, like: Job) -> Callable[[Job], bool]:
        """Return a guess whether jobs fit: they may have as much beside their tensors as one like them has."""
        figure = self.ledger(like).figure("device")
        assert figure is not None  # there is a device
        room = self.fleet.device.capacity_bytes - (figure.safe_bytes - self.peak(like))
        return lambda job: self.peak(job) <= room
