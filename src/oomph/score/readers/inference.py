"""Published rows of serving engines; what an engine's own lines mean is in one file per engine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from oomph.answer import Subject
from oomph.score.asking import catalogued
from oomph.score.readers.engines import READERS, REFUSED
from oomph.score.reading import Question, Schema, refuse, shown, words


def _group(row: Mapping[str, Any]) -> str:
    return shown(row.get("engine"))


def _question(row: Mapping[str, Any]) -> Question:
    engine = words(row, "engine")
    if engine not in READERS:
        raise refuse(f"engine {shown(engine)}", REFUSED.get(engine, "not modelled yet"))
    reader = import_module(f"oomph.score.readers.engines.{READERS[engine]}")
    asked: Question = reader.question(row, _subject(reader, row))
    return asked


def _subject(reader: Any, row: Mapping[str, Any]) -> Subject | None:
    """Return the model of a row; a reader may find it (`subject`), or know what was copied by name (`published`)."""
    if hasattr(reader, "subject"):
        found: Subject | None = reader.subject(row)
        return found
    return catalogued(getattr(reader, "published", str)(words(row, "model")))


SCHEMA = Schema("inference", ("engine", "model", "measured"), _group, _question, failures=("oom_sampler_warmup",))
