"""Rows of TensorRT-LLM's log: the GiB and the tokens of one line, each from the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.answer import Subject
from oomph.engines.trtllm import BLOCKS, TrtllmJob, block
from oomph.errors import OomphError
from oomph.score.asking import catalogued
from oomph.score.reading import Answer, Question, number, refuse, shown, whole, words
from oomph.units import GIB

# Rows that say what shape a model has: 32 layers, 8 key heads of 128, as Llama 3.1 8B.
COPIES = {
    "nemotron_llm (32 layers, 8 kv heads, head_dim 128)": "meta-llama/Llama-3.1-8B-Instruct",
    "dynamo example worker (Llama-3.1-8B-geometry model, name not in excerpt)": "meta-llama/Llama-3.1-8B-Instruct",
}
WIDTHS = {None: 2, "fp16": 2, "bf16": 2, "fp8": 1}


def subject(row: Mapping[str, Any]) -> Subject:
    """Return the model by the name a row gives it."""
    name = words(row, "model")
    return catalogued(COPIES.get(name, name))


def question(row: Mapping[str, Any], found: Subject) -> Question:
    """Return how the lines of a row are estimated."""
    said = row.get("measured")
    measured = said if isinstance(said, Mapping) else {}
    if row.get("kv_dtype") not in WIDTHS:
        raise refuse(f"kv_dtype {shown(row.get('kv_dtype'))}", "not a dtype of a cache that oomph knows")
    per_block = measured.get("block_size")
    if per_block not in BLOCKS:
        raise refuse("block_size", f"{shown(per_block)} is no number of tokens of a block")
    try:
        job = TrtllmJob(tensor_parallel=whole(row, "tp", 2**16), tokens_per_block=per_block)
        made = block(found.model, job, WIDTHS[row.get("kv_dtype")])
    except OomphError as error:
        raise refuse("its blocks", error.problem.rstrip(".")) from None

    def tokens() -> Answer:
        blocks = int(_positive(measured, "kv_cache_gib") * GIB) // made.n_bytes
        return Answer(blocks * made.tokens, max(0, blocks - 1) * made.tokens)

    def gib() -> Answer:
        n_bytes = int(_positive(measured, "kv_tokens")) * made.token_bytes
        return Answer(n_bytes, n_bytes)

    how = ("a cache of 16 bits", "the GiB and the tokens of one line, each from the other: memory is not said")
    return Question({"kv_tokens": tokens, "kv_cache_gib": gib}, how)


def _positive(measured: Mapping[str, Any], name: str) -> float:
    found = number(measured.get(name))
    if found is None or not 0 < found < 2**40:
        raise refuse(name, f"{shown(measured.get(name))} is no measurement of memory")
    return found
