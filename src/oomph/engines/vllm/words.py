"""A job as the words of its command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields

from oomph.engines.vllm.job import VllmJob
from oomph.engines.vllm.settings import read_json


def words(job: VllmJob) -> Iterator[str]:
    """Yield the flags of a job that differ from vLLM's own; a job's context is the longest request of a server."""
    if job.max_model_len is None and job.context is not None:
        yield from ("--max-model-len", str(job.context))
    for each in fields(job):
        value = getattr(job, each.name)
        names = each.metadata.get("flags", ())
        if not names or names[0].isupper() or value is None or value == each.default:
            continue
        turned_on, _, turned_off = names[0].partition("/")
        if isinstance(value, bool):
            if value or turned_off:
                yield turned_on if value else turned_off
        else:
            yield from (turned_on, *map(_word, value if isinstance(value, tuple) else (value,)))


def variables(job: VllmJob) -> Iterator[str]:
    """Yield the assignments before the command, of what only variables say."""
    for each in fields(job):
        value, name = getattr(job, each.name), each.metadata.get("flags", ("",))[0]
        if name.isupper() and value != each.default:
            yield f"{name}={int(value) if isinstance(value, bool) else value}"


def _word(value: object) -> str:
    """Return a value as a word; keys of JSON have underscores, of which flags with dots have hyphens."""
    text = str(value)
    return json.dumps(read_json(text, text, "")) if text.startswith("{") else text
