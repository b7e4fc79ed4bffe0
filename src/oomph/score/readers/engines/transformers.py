"""Rows of transformers' generate(): QwenLM's speed benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.answer import Subject
from oomph.job import InferJob
from oomph.score.asking import Case, device
from oomph.score.readers.engines.common import UNQUANTISED, one_device
from oomph.score.reading import Answer, Ask, Question, notes, refuse, shown, whole, words

STEADY = "steady-state"


def question(row: Mapping[str, Any], found: Subject) -> Question:
    """Return how the peaks of transformers' speed benchmark are estimated: prefill, then tokens one by one."""
    one_device(row)
    reading, writing = jobs_of(row)
    gpu = device(row.get("gpu"))
    prefill, last = Case(found, reading, gpu), Case(found, writing, gpu)
    version = f"transformers {words(row, 'engine_version')}, estimated by the rules of the one oomph follows"
    if STEADY in notes(row):
        return Question({"peak_gib": last.resident}, (version, "what stands at the end, as its notes say"))
    asks: dict[str, Ask] = {"peak_gib": lambda: _highest(prefill, last)}
    return Question(asks, (version, "the higher of the prefill and the last token"))


def jobs_of(row: Mapping[str, Any]) -> tuple[InferJob, InferJob]:
    """Return the prefill and a job that ends where the last token was written; raises UnsupportedError."""
    if row.get("quant") not in UNQUANTISED:
        raise refuse(f"quant {shown(row.get('quant'))}", "jobs of quantised models are not modelled yet")
    if words(row, "engine_version").startswith("4.38."):
        raise refuse("transformers 4.38", "prefill makes fp32 logits of every token, which no job says")
    read, total, batch = whole(row, "input_len"), whole(row, "total_len"), whole(row, "batch_size")
    if read == 1 and "stop early" in notes(row):
        raise refuse("total_len", "its notes say that rows of one token may have stopped early")
    cached = total - 1  # the last token is written, but not read again
    if cached <= read:
        raise refuse("total_len", "not two tokens more than input_len")
    return InferJob(batch, read), InferJob(batch, cached - 1, decode=1)


def _highest(prefill: Case, last: Case) -> Answer:
    """Return the peak of reading or of the last token written, whichever is higher; tokens between take less."""
    first, after = prefill.figure("allocated"), last.figure("allocated")
    beside = after.n_bytes - max(one.peak_bytes for one in last.ledger.instants)
    end = max(one.peak_bytes for one in last.ledger.instants if one.name.startswith("decode")) + beside
    return Answer(max(first.n_bytes, end), max(first.safe_bytes, end + after.safe_bytes - after.n_bytes))
