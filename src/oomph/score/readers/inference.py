"""Published rows of serving engines; what an engine's own lines mean is in one file per engine."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

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
    published = getattr(reader, "published", str)  # of a conversion, the model it was made of
    asked: Question = reader.question(row, catalogued(published(words(row, "model"))))
    return asked


SCHEMA = Schema("inference", ("engine", "model", "measured"), _group, _question, failures=("oom_sampler_warmup",))
