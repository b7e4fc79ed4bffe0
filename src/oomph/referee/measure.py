"""Many measured rows: each job in a process of its own, one JSON object a line, taken up again where it stopped.

No torch in this process: it would keep a context on the device that is measured. What a row is: docs/measure.md.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from oomph.errors import SourceError
from oomph.job import InferJob, TrainJob, describe
from oomph.optimizer_names import KINDS
from oomph.referee import isolated
from oomph.referee.meta import INSTALL
from oomph.units import GIB, human

SCHEMA = "oomph-measure-1"
ROW = "oomph.referee.row"  # the module that measures one
DEVICE_SECONDS = 120.0  # to import torch and look at the device
ROW_SECONDS = 600.0  # for one row; the largest of a suite takes some ten
AHEAD = 2  # processes that import while another one measures: imports take longer than most rows
ID_DIGITS = 16
IN_GIB = ("peak_allocated", "peak_reserved", "nvidia_smi", "resident_alloc")  # also as in published tables
GIB_DIGITS = 4
METRIC = (
    "torch.cuda.max_memory_allocated and max_memory_reserved of the step that counts; resident: memory_allocated after"
    " it; nvidia-smi: NVML's used of the device after it, less that before the process had a context"
)
PRECISIONS = {"bf16": "pure bf16", "fp16": "pure fp16", "fp32": "fp32"}


@dataclass(frozen=True)
class Entry:
    """One configuration to measure: a name that says what is special, the model's name and raw config, the job."""

    name: str
    model: str
    config: Mapping[str, Any]
    job: TrainJob | InferJob


@dataclass(frozen=True)
class Progress:
    """How far a run has come: rows done now, rows left, and seconds that those will take if they go on so."""

    done: int
    left: int
    seconds_left: float


def device() -> dict[str, Any]:
    """Return the GPU of this machine with the versions of what runs on it.

    Raises SourceError: no torch or transformers, or no GPU that torch can use.
    """
    if not all(map(find_spec, ("torch", "transformers"))):
        raise SourceError("Measuring needs torch and transformers.", f"Do: {INSTALL}")
    found = _answer(isolated.Worker(ROW, gpu=True), {"ask": "device"}, DEVICE_SECONDS)
    if "device" in found:
        return dict(found["device"])
    why = found.get("no_device") or found.get("reason") or found.get("error", "")
    raise SourceError(
        f"There is no GPU to measure on here: {why[:300]}.",
        "Run this where torch.cuda.is_available() is true; without a GPU, oomph train and oomph serve estimate it.",
    )


def name_of(model: str, job: TrainJob | InferJob, config: Mapping[str, Any] | None = None) -> str:
    """Return a name for an entry: the model, what of its config was changed, and where the job is not the default.

    >>> name_of("gpt2", TrainJob(batch=4), {"n_layer": 2})
    'gpt2 n_layer=2 batch=4'
    """
    usual = describe(type(job)())
    changed = {name: value for name, value in describe(job).items() if value != usual[name]}
    words = [f"{name}={value}" for name, value in {**(config or {}), **changed}.items()]
    return " ".join([model, *(["infer"] if isinstance(job, InferJob) else []), *words])


def identity(entry: Entry, on: Mapping[str, Any]) -> str:
    """Return what a row is known by: a hash of config, job, library versions, settings and GPU."""
    kept = {name: version for name, version in on["versions"].items() if name not in ("oomph", "driver")}
    what = [SCHEMA, entry.config, kind(entry.job), describe(entry.job), kept, on["environment"], on["gpu"]]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:ID_DIGITS]


def kind(job: TrainJob | InferJob) -> str:
    """Return "train" or "infer"."""
    return "train" if isinstance(job, TrainJob) else "infer"


def measure(
    entries: Sequence[Entry],
    on: Mapping[str, Any],
    done: frozenset[str] = frozenset(),
    *,
    seconds: float | None = None,
    row_seconds: float = ROW_SECONDS,
    snapshots: Path | None = None,
) -> Iterator[tuple[dict[str, Any], Progress]]:
    """Yield the row of each entry whose id is not in `done`, in order, as soon as it is there.

    `seconds` is a budget: a row that would probably end after it is not begun, but for the first one. `snapshots` is a
    folder for a recording per row. The processes of the next rows are started early: their imports cost no time then.
    """
    began = time.monotonic()
    todo = [entry for entry in unique(entries, on) if identity(entry, on) not in done]
    waiting: deque[isolated.Worker] = deque()
    try:
        for index, entry in enumerate(todo):
            spent = time.monotonic() - began
            if index and seconds is not None and spent + spent / index > seconds:
                return
            for later in todo[index + len(waiting) : index + 1 + AHEAD]:
                waiting.append(isolated.Worker(ROW, [str(later.config.get("model_type", ""))], gpu=True))
            row = _row(entry, on, waiting.popleft(), snapshots, row_seconds)
            left = len(todo) - index - 1
            yield row, Progress(index + 1, left, (time.monotonic() - began) / (index + 1) * left)
    finally:
        for worker in waiting:
            worker.close()


def unique(entries: Sequence[Entry], on: Mapping[str, Any]) -> list[Entry]:
    """Return the entries without those that mean the same as one before."""
    found: dict[str, Entry] = {}
    for entry in entries:
        found.setdefault(identity(entry, on), entry)
    return list(found.values())


def _row(
    entry: Entry, on: Mapping[str, Any], worker: isolated.Worker, snapshots: Path | None, seconds: float
) -> dict[str, Any]:
    ident = identity(entry, on)
    snapshot = snapshots / f"{ident}.pickle" if snapshots is not None else None
    question = {
        "ask": "row",
        "kind": kind(entry.job),
        "config": dict(entry.config),
        "job": describe(entry.job),
        "snapshot": str(snapshot.absolute()) if snapshot is not None else "",
    }
    found = _answer(worker, question, seconds)
    found = found.get("row", {"status": "error", "reason": found.get("error", found.get("reason", ""))})
    measured = found.pop("measured", {})
    for name in IN_GIB:
        n_bytes = measured.get(f"{name}_bytes")
        measured[f"{name}_gib"] = None if n_bytes is None else round(n_bytes / GIB, GIB_DIGITS)
    return {
        "schema": SCHEMA,
        "id": ident,
        "name": entry.name,
        **_published_keys(entry, on),
        "status": found.pop("status"),
        "reason": found.pop("reason"),
        "measured": measured,
        **found,
        "snapshot": snapshot.name if snapshot is not None and snapshot.is_file() else None,
        "kind": question["kind"],
        "job": question["job"],
        "config": question["config"],
        "device": {name: on[name] for name in ("gpu", "total_bytes", "compute_capability")},
        "versions": on["versions"],
        "environment": on["environment"],
    }


def _published_keys(entry: Entry, on: Mapping[str, Any]) -> dict[str, Any]:
    """Return what rows collected from published measurements say, under the same keys."""
    job, versions = entry.job, on["versions"]
    found: dict[str, Any] = {
        "framework": "transformers",
        "framework_version": ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers")),
        "model": entry.model,
        "seq_len": job.seq_len,
        "micro_batch": job.batch,
        "attention_impl": job.attention,
        "precision_mode": PRECISIONS.get(job.precision, job.precision),
        "compile": False,
        "n_gpus": 1,
        "gpu": on["gpu"],
        "metric": METRIC,
    }
    if isinstance(job, TrainJob):
        found |= {
            "method": "full",
            "optimizer": f"{job.optimizer} ({job.implementation})" if _has_ways(job) else job.optimizer,
            "grad_accum": job.accumulation,
            "checkpointing": job.checkpointing,
        }
    return found


def _has_ways(job: TrainJob) -> bool:
    return job.optimizer in KINDS and bool(KINDS[job.optimizer].implementations)


def _answer(worker: isolated.Worker, question: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return a process's one answer, or the reason why there is none."""
    with worker:
        try:
            for message in worker.ask(question, seconds):
                return message
            ended = "exit 0"
        except isolated.Died as died:
            if died.too_slow:
                return {"reason": f"it took more than {seconds:g} seconds"}
            ended = died.how
    return {"reason": f"the process ended without an answer ({ended})"}


def sentence(row: Mapping[str, Any], progress: Progress) -> str:
    """Return one line about a row and what is left, for people who wait."""
    measured = row["measured"]
    if row["status"] == "error":
        what = f"error: {row['reason'][:80]}"
    else:
        peak, reserved = measured["peak_allocated_bytes"], measured["peak_reserved_bytes"]
        what = f"{row['status']}, {human(peak)} allocated, {human(reserved)} reserved"
    left = f"{progress.left} left, about {progress.seconds_left / 60:.0f} min" if progress.left else "the last one"
    return f"{row['name']}: {what}; {left}"
