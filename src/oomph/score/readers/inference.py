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
    find = getattr(reader, "subject", _catalogued)  # a reader may know of copies, conversions, files of a model
    asked: Question = reader.question(row, find(row))
    return asked


def _catalogued(row: Mapping[str, Any]) -> Subject:
    return catalogued(words(row, "model"))


SCHEMA = Schema("inference", ("engine", "model", "measured"), _group, _question, failures=("oom_sampler_warmup",))
