"""Rows of vLLM's start-up log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.answer import Subject
from oomph.score.asking import weights
from oomph.score.readers.engines.common import DTYPES, UNQUANTISED, one_device
from oomph.score.reading import Question, notes, refuse, shown

PUBLISHED = ("auto", "auto(bf16)")
# How engines call what a config's quantization_config calls otherwise.
METHODS = {"awq_marlin": "awq", "gptq_marlin": "gptq", "fp8": "fp8", "mxfp4": "mxfp4", "awq": "awq", "gptq": "gptq"}
METHODS |= {"compressed-tensors": "compressed-tensors"}
# Made while loading: vLLM's quantization/fp8.py keeps one scale per tensor where the checkpoint is not fp8.
WHILE_LOADING = {"fp8": "fp8-tensor"}
INSIDE = {  # what is counted as weights beside the model's own
    "LoRA": "slots for adapters are counted in it",
    "speculative decoding": "weights of the draft are counted in it",
    "NPU build": "how that build lays out quantised weights is not known",
}


def question(row: Mapping[str, Any], found: Subject) -> Question:
    """Return how the lines of a row are estimated."""
    one_device(row)
    for word, why in INSIDE.items():
        if word in notes(row):
            raise refuse(f"weights with {word}", why)
    name, assumed = _format(row, found)
    return Question({"weights_gib": lambda: weights(found, name)}, assumed)


def _format(row: Mapping[str, Any], found: Subject) -> tuple[str | None, tuple[str, ...]]:
    """Return the format of the weights (None: as published), and what had to be assumed."""
    quant = row.get("quant")
    asked = (found.source.config or {}).get("quantization_config")
    method = asked.get("quant_method") if isinstance(asked, Mapping) else None
    if quant is None or quant in UNQUANTISED:
        if method is not None and quant is not None:
            raise refuse(f"quant {shown(quant)}", f"the model is published in {shown(method)}")
        return _plain(row)
    if not isinstance(quant, str):
        raise refuse("quant", f"{shown(quant)} is not text")
    if method is not None and METHODS.get(quant) == method:
        return None, ()
    if quant in WHILE_LOADING and method is None:
        return WHILE_LOADING[quant], ("fp8 made while loading, one scale per tensor: vLLM's way",)
    raise refuse(f"quant {shown(quant)}", "which format that is, is not said exactly")


def _plain(row: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    dtype = row.get("dtype")
    if dtype is None or dtype in PUBLISHED:
        return None, ("dtype not said: as published, the engine's default",)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refuse(f"dtype {shown(dtype)}", "not a dtype of weights that oomph knows")
    return DTYPES[dtype], ()
