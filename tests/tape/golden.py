"""Event streams of real code that a test environment does not have: recorded where it is, as numbers.

A file holds rows of config, job and what the trace of the real code said: bytes, how many events, a digest of them.
`python -m tests.tape.golden MODULE` records the file of a test module again, with the packages it names.
"""

from __future__ import annotations

import hashlib
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from oomph.compare import Step, peak_bytes, steps
from oomph.job import InferJob, TrainJob
from tests.tape.grid import casts, played

Row = dict[str, Any]


def digest(events: list[Step]) -> str:
    """A text that is the same for the same allocations and frees in the same order."""
    return hashlib.sha256(repr([event.key for event in events]).encode()).hexdigest()[:16]


def said(events: list[Step]) -> Row:
    """What is kept of a stream."""
    return {"peak_bytes": peak_bytes(events), "events": len(events), "digest": digest(events)}


def job_of(inputs: dict[str, Any]) -> TrainJob | InferJob:
    """The job of these inputs: one that decodes is of inference."""
    return InferJob(**inputs) if "decode" in inputs else TrainJob(**inputs)


def estimated(raw: dict[str, Any], job: TrainJob | InferJob) -> Row:
    """What the tape says."""
    return said(played(raw, job)[1])


def traced(raw: dict[str, Any], job: TrainJob | InferJob) -> Row:
    """What the real code does, on tensors without memory."""
    from oomph.referee.trace import trace
    from oomph.trace_groups import trace_start

    found = trace(raw, job, layer_marks=False)
    return said(steps(found.stream, trace_start(found.stream), casts(job)))


def read(path: Path) -> list[tuple[dict[str, Any], Any, Row]]:
    """The rows of a file."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [(row["config"], job_of(row["job"]), row["said"]) for row in rows]


def record(path: Path, recipe: str, cases: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Write a file of what the real code does in these cases."""
    rows = [{"config": raw, "job": job, "said": traced(raw, job_of(job))} for raw, job in cases]
    text = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f'{{"recipe": {json.dumps(recipe)}, "rows": [\n{text}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    module = import_module(sys.argv[1])
    record(module.GOLDEN, module.RECIPE, module.CASES)
