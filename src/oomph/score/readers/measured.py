"""Rows of `oomph measure` (docs/measure.md): config and job are in the row, so nothing has to be assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from oomph.job import InferJob, TrainJob
from oomph.score.asking import Case, configured, device
from oomph.score.reading import MUST_NOT_FIT, Ask, Question, Schema, number, refuse, shown, words
from oomph.structure import Job

NAME = "oomph-measure-1"
KINDS: dict[str, type[TrainJob] | type[InferJob]] = {"train": TrainJob, "infer": InferJob}
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING")


def _total_bytes(row: Mapping[str, Any]) -> int | None:
    """Return the memory of the GPU as CUDA said it, None where the row does not say."""
    found = row.get("device")
    total = number(found.get("total_bytes")) if isinstance(found, Mapping) else None
    return int(total) if total is not None and 0 < total <= 2**50 else None


def _group(row: Mapping[str, Any]) -> str:
    kind = {"train": "training", "infer": "inference"}.get(str(row.get("kind")), "")
    return f"oomph measure, {kind}" if kind else "oomph measure"


def _question(row: Mapping[str, Any]) -> Question:
    job = _job(row)
    name = row.get("model")
    found = configured(name if isinstance(name, str) else "", row.get("config"))
    case = Case(found, job, device(row.get("gpu"), _total_bytes(row)))
    asks: dict[str, Ask] = {
        "peak_allocated_gib": lambda: case.figure("allocated"),
        "resident_alloc_gib": case.resident,
        "peak_reserved_gib": lambda: case.figure("reserved"),
        "nvidia_smi_gib": lambda: case.figure("device"),
        MUST_NOT_FIT: case.must_not_fit,
    }
    odd = _odd_allocator(row)
    if odd:
        asks |= dict.fromkeys(("peak_reserved_gib", "nvidia_smi_gib", MUST_NOT_FIT), lambda: _refuse_allocator(odd))
    later = [field.name for field in fields(job) if field.name not in row["job"]]
    return Question(asks, (f"not said, so the default: {', '.join(later)}",) if later else ())


def _odd_allocator(row: Mapping[str, Any]) -> str:
    environment = row.get("environment")
    set_here = [name for name in ALLOCATOR if isinstance(environment, Mapping) and environment.get(name)]
    return set_here[0] if set_here else ""


def _refuse_allocator(name: str) -> Any:
    raise refuse(name, "was set, and other settings of the allocator are not scored yet")


def _job(row: Mapping[str, Any]) -> Job:
    """Return the job of a row; every input must be one that this oomph has, of the right type.

    An input that came to jobs after the row was written has its default: what jobs did before.
    """
    kind, inputs = words(row, "kind"), row.get("job")
    if kind not in KINDS:
        raise refuse(f"kind {shown(kind)}", "neither train nor infer")
    if not isinstance(inputs, Mapping):
        raise refuse("job", "not an object")
    job_type = KINDS[kind]
    hints, known = get_type_hints(job_type), {field.name for field in fields(job_type)}
    for name, value in inputs.items():
        if name not in known:
            raise refuse(f"job.{shown(name)}", "no input of a job that this oomph has")
        wanted = hints[name] if hints[name] in (int, bool, float) else str
        if type(value) is not wanted:
            raise refuse(f"job.{name}", f"{shown(value)} is not {wanted.__name__}")
    return job_type(**inputs)


SCHEMA = Schema(
    NAME,
    ("schema", "kind", "job", "config", "measured"),
    _group,
    _question,
    names=("peak_allocated_gib", "peak_reserved_gib", "nvidia_smi_gib", "resident_alloc_gib"),
    exact={
        "peak_allocated_gib": "peak_allocated_bytes",
        "peak_reserved_gib": "peak_reserved_bytes",
        "nvidia_smi_gib": "nvidia_smi_bytes",
        "resident_alloc_gib": "resident_alloc_bytes",
    },
    total_bytes=_total_bytes,
)
