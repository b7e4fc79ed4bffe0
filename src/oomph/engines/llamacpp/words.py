"""The words of a `llama-server` command, and those that all servers on ggml's jobs have in common."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any

from oomph.engines.llamacpp.job import AUTO_SLOTS, LlamaCppJob

OWN = ("ctx_size", "parallel", "kv_unified")  # said together, below


def words(job: LlamaCppJob) -> list[str]:
    """Return the flags of a job that are not as the server takes them anyway."""
    said = []
    slots = job.slots if job.slots is not None else job.concurrency if job.concurrency > AUTO_SLOTS else None
    ctx_size = job.ctx_size
    if ctx_size is None and job.context is not None:
        ctx_size = job.context * (job.concurrency if job.unified else slots or 1)
    if ctx_size is not None:
        said += ["-c", str(ctx_size)]
    if slots is not None:
        said += ["-np", str(slots), *(["-kvu"] if job.unified else [])]
    return [*said, *others(job, OWN)]


def others(job: LlamaCppJob, own: Collection[str]) -> list[str]:
    """Return every flag of a job that is not as the server takes it anyway, but for those of `own` fields."""
    said = []
    for each in fields(job):
        value = getattr(job, each.name)
        if "flags" in each.metadata and each.name not in own and value != each.default:
            value = _draft(value, job) if each.name == "draft" else value
            said += _words(each.metadata["flags"][0], value)
    return said


def _draft(name: str, job: LlamaCppJob) -> str:
    """Return the file that a draft is called by, as the model is: in the format that was assumed of it (drafts.py)."""
    from oomph.answer import subject
    from oomph.engines import engine
    from oomph.engines.model_names import by_name, called
    from oomph.formats.gguf_convert import as_published
    from oomph.sources import catalogue

    program = engine("llama.cpp")
    named = by_name(name, program) if not name.endswith(".gguf") else None
    model, fmt = (name, None) if catalogue.find(name) else (named.model, named.format) if named else ("", None)
    if not model:
        return name
    found = subject(model, offline=True)
    return called(program, model, fmt or job.format or as_published(found.model, found.source.config))


def _words(name: str, value: Any) -> list[str]:
    on, _, off = name.partition("/")
    if isinstance(value, bool):
        return [on if value else off or f"--no-{on.lstrip('-')}"]
    return [on, str(value)]
