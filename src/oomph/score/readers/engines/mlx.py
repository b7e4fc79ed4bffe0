"""Rows of mlx-lm's benchmark: the peak of a prompt and the tokens after it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from oomph.answer import Subject
from oomph.engines.mlx import deploy
from oomph.engines.mlx.job import MlxJob
from oomph.score.asking import device
from oomph.score.readers.engines.common import UNQUANTISED, one_device
from oomph.score.reading import Answer, Question, refuse, shown, whole, words
from oomph.units import GIB

# What conversions are called after the model they were made of: mlx-community/NAME-4bit, NAME-5bit-g32.
_CONVERTED = re.compile(r"mlx-community/(.{1,150}?)-[2-8]bit(?:-g(?:32|64|128))?")
_QUANT = re.compile(r"q([2-8])(?: g(32|64|128))?")
USUAL_GROUP = "64"


def published(name: str) -> str:
    """Return the model that was converted.

    >>> published("mlx-community/Qwen3-4B-Instruct-2507-5bit-g32")
    'Qwen3-4B-Instruct-2507'
    """
    found = _CONVERTED.fullmatch(name)
    return found[1] if found else name


def question(row: Mapping[str, Any], found: Subject) -> Question:
    """Return how the peak of mlx_lm.benchmark is estimated."""
    one_device(row)
    prompt, tokens = whole(row, "input_len"), whole(row, "output_len")
    version = words(row, "engine_version")
    job = MlxJob(context=prompt + tokens, prompt=prompt, format=_format(row), version=version)
    gpu = device(row.get("gpu"))
    if gpu is None or gpu.vendor != "apple":
        raise refuse(f"gpu {shown(row.get('gpu'))}", "no Apple device that is known")

    def peak() -> Answer:
        printed = deploy(found, job, [gpu]).printed[0]
        return Answer(printed.value * GIB, (printed.safe or printed.value) * GIB)

    return Question({"peak_gib": peak}, (f"mlx-lm {version}",))


def _format(row: Mapping[str, Any]) -> str:
    quant = row.get("quant")
    if quant in UNQUANTISED:
        return "bf16"
    asked = _QUANT.fullmatch(quant) if isinstance(quant, str) else None
    if asked is None:
        raise refuse(f"quant {shown(quant)}", "which of MLX's formats that is, is not said exactly")
    group = asked[2] or USUAL_GROUP
    return f"mlx-{asked[1]}bit" + ("" if group == USUAL_GROUP else f"-g{group}")
