"""One measured row, in a process of its own: the real job on a device, and what it took, phase by phase.

`python -m oomph.referee.row MODEL_TYPE` imports what the model needs, then reads its question. Nothing touches the
device before that, so such a process may wait while another one measures.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from oomph.errors import OomphError
from oomph.job import InferJob, TrainJob
from oomph.job_words import FLASH_ATTN
from oomph.referee import fla, inference, isolated, jobs, models, sdpa
from oomph.referee.meter import CudaMeter, Meter, Reading
from oomph.referee.trace import collected

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
NAMES = {backend: name for name, backend in BACKENDS.items()}
# How errors say that memory ran out where torch's allocator is not asked: the driver's and cuBLAS's own.
OUT_OF_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "cudaErrorMemoryAllocation")
MAX_REASON = 300  # characters


class MeterWatcher:
    """Follows a job with a meter: a phase for every mark, what came before the step that counts kept apart."""

    def __init__(self, meter: Meter, clock: Callable[[], float] = time.perf_counter) -> None:
        self.meter = meter
        self.clock = clock
        self.phase = "build"
        self.counts = False
        self.phases: list[dict[str, Any]] = []
        self.warm_up: list[dict[str, Any]] = []
        self.kernels: list[str] = []
        self.params = 0
        self._start = clock()

    def mark(self, name: str) -> None:
        """End a phase and begin the next one."""
        if self.phase:
            self._end()
        self.phase = "" if name == "end" else name
        self.meter.reset()
        self._start = self.clock()

    def ready(self, model: Any, optimizer: Any, reference: Any = None) -> None:
        """Begin anew: the step that counts comes next."""
        if self.phase:  # nothing ran since the model was built
            self._end()
        self.phase, self.counts = "", True
        self.warm_up, self.phases = self.phases, []
        self.meter.reset()

    def passing(self, work: str) -> None:
        """Nothing to note: phases are those of every job."""

    def backward_done(self, model: Any) -> None:
        """Nothing to note: the allocator counts gradients with everything else."""

    def updated(self, optimizer: Any) -> None:
        """Nothing to note."""

    def took(self, kernel: str) -> None:
        """Hear which attention kernel a call takes."""
        if kernel not in self.kernels:
            self.kernels.append(kernel)

    def _end(self) -> None:
        reading = self.meter.read()
        self.phases.append({
            "name": self.phase,
            "peak_allocated_bytes": reading.peak_allocated_bytes,
            "peak_reserved_bytes": reading.peak_reserved_bytes,
            "end_allocated_bytes": reading.allocated_bytes,
            "end_reserved_bytes": reading.reserved_bytes,
            "seconds": round(self.clock() - self._start, 6),
        })  # fmt: skip


def measure(raw: Mapping[str, Any], job: TrainJob | InferJob, meter: Meter, snapshot: str = "") -> dict[str, Any]:
    """Run a job on the meter's device and return what it took: see docs/measure.md for the keys.

    Running out of memory is an answer (status "oom"), so is any other failure (status "error"). `snapshot` is the
    file to write a recording of all allocations to.
    """
    began = time.perf_counter()
    watcher = MeterWatcher(meter)
    with meter:
        started = meter.in_use()
        if snapshot:
            meter.record()
        status, reason = "ok", ""
        try:
            _run(raw, job, watcher)
        except Exception as error:
            status, reason = ("oom" if ran_out(error) else "error"), _said(error)
            reading = meter.read()  # while the frames that failed hold their tensors
        else:
            reading = meter.read()
        found = _figures(watcher, reading)
        ended = meter.in_use()
        if snapshot:
            meter.dump(snapshot)
    found["device_before_bytes"] = meter.before.device_bytes
    found["context_bytes"] = _less(started.device_bytes, meter.before.device_bytes)
    found["device_after_bytes"] = ended.device_bytes
    found["nvidia_smi_bytes"] = _less(ended.device_bytes, meter.before.device_bytes)
    found["process_bytes"] = ended.process_bytes
    return {
        "status": status,
        "reason": reason,
        "failed_in": "" if status == "ok" else f"{'' if watcher.counts else 'before: '}{watcher.phase}",
        "params": watcher.params,
        "kernels": watcher.kernels,
        "measured": found,
        "phases": watcher.phases,
        "warm_up": watcher.warm_up,
        "seconds": round(time.perf_counter() - began, 3),
    }


def _run(raw: Mapping[str, Any], job: TrainJob | InferJob, watcher: MeterWatcher) -> None:
    meter = watcher.meter
    with collected():
        model = models.build(raw, job, meter.device)
        reference = models.build_reference(raw, job, meter.device)
        watcher.params = sum(parameter.numel() for parameter in model.parameters())
        meter.settle()
        with kernels(job, watcher), fla.installed(model, job, real=True):
            if isinstance(job, TrainJob):
                jobs.train(model, job, watcher, warm_up=job.steady, reference=reference)
            else:
                inference.infer(model, job, watcher, warm_up=True, assistant=reference)


def _figures(watcher: MeterWatcher, reading: Reading) -> dict[str, Any]:
    """Return the figures of the whole step; of one that failed, those of the time it failed."""
    seen = watcher.phases or watcher.warm_up
    peaks = [(each["peak_allocated_bytes"], each["peak_reserved_bytes"]) for each in seen]
    if watcher.phase or not peaks:
        peaks.append((reading.peak_allocated_bytes, reading.peak_reserved_bytes))
    return {
        "peak_allocated_bytes": max(allocated for allocated, _ in peaks),
        "peak_reserved_bytes": max(reserved for _, reserved in peaks),
        "resident_alloc_bytes": seen[-1]["end_allocated_bytes"] if seen else reading.allocated_bytes,
        "end_allocated_bytes": reading.allocated_bytes,
        "end_reserved_bytes": reading.reserved_bytes,
        "alloc_retries": reading.retries,
        "ooms": reading.ooms,
    }


def _less(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def ran_out(error: Exception) -> bool:
    """Say whether an error means that device memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def _said(error: Exception) -> str:
    """Return an error in one line."""
    text = error.problem if isinstance(error, OomphError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:MAX_REASON]


@contextmanager
def kernels(job: TrainJob | InferJob, watcher: MeterWatcher) -> Iterator[None]:
    """Let attention take the job's kernel, and where that one cannot, what the trace takes too.

    While the job warms up, torch is asked at every call which kernel it takes; in the step that counts nothing is.
    """
    if job.attention in ("eager", *FLASH_ATTN):  # transformers finds a package, or says that it is missing
        yield
        return
    order = [*sdpa.ORDER[job.attention], "math"]
    functional = torch.nn.functional
    asking = _asking(functional.scaled_dot_product_attention, watcher)
    with (
        sdpa_kernel([BACKENDS[name] for name in order], set_priority=True),
        patch.object(functional, "scaled_dot_product_attention", asking),
    ):
        yield


def _asking(original: Callable[..., Any], watcher: MeterWatcher) -> Callable[..., Any]:
    def scaled_dot_product_attention(*args: Any, **kwargs: Any) -> Any:
        if not watcher.counts:
            watcher.took(_choice(*args, **kwargs))
        return original(*args, **kwargs)

    return scaled_dot_product_attention


def _choice(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **rest: Any,
) -> str:
    """Return the kernel torch takes for these [B, N, S, D] tensors. One sequence tells as much as all of them."""
    tensors = [each[:1] for each in (query, key, value)]
    mask = attn_mask[:1] if attn_mask is not None and attn_mask.dim() == query.dim() else attn_mask
    device_type = query.device.type
    if torch.is_autocast_enabled(device_type):  # attention itself casts before it chooses
        dtype = torch.get_autocast_dtype(device_type)
        tensors = [each.to(dtype) for each in tensors]
        mask = mask.to(dtype) if mask is not None and mask.is_floating_point() else mask
    chosen = SDPBackend(torch._fused_sdp_choice(*tensors, mask, dropout_p, is_causal, **rest))
    return NAMES.get(chosen) or str(chosen.name).lower()


def answer(question: dict[str, Any], meter: Meter) -> dict[str, Any]:
    """Answer the parent process: what device this is, or a row."""
    if question["ask"] == "device":
        try:
            return {"device": meter.facts()}
        except LookupError as error:
            return {"no_device": str(error)}
    job = (TrainJob if question["kind"] == "train" else InferJob)(**question["job"])
    return {"row": measure(question["config"], job, meter, question["snapshot"])}


def preload(model_type: str) -> None:
    """Import the class of a model type, if there is one; a failure will be told when the model is built."""
    import transformers

    try:
        config = transformers.CONFIG_MAPPING[model_type]
        transformers.AutoModelForCausalLM._model_mapping[config]
    except Exception:
        return


def main(meter: Callable[[], Meter] = CudaMeter) -> None:
    """Be the other process."""
    for model_type in sys.argv[1:]:
        preload(model_type)
    isolated.serve(lambda question, _send: answer(question, meter()))


if __name__ == "__main__":
    main()
