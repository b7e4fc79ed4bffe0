"""Rows of llama.cpp's log: what they are read as, what they lack, and how near the estimates come."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from statistics import median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.errors import OomphError
from oomph.score.readers.engines.llamacpp import question, subject
from oomph.score.scoring import score
from tests.conftest import SHARED
from tests.score.rows import INFERENCE

# Ollama 0.13.5 on an L40S: row lcpp-144 of the published collection.
ROW: dict[str, Any] = {
    **{key: INFERENCE[key] for key in ("confidence",)},
    "id": "by-hand-llamacpp",
    "engine": "ollama (llama.cpp runner)",
    "model": "Meta Llama 3.1 70B Instruct",
    "quant": "Q4_K - Medium",
    "kv_dtype": "f16",
    "n_ctx": 8192,
    "n_batch": 512,
    "n_ubatch": 512,
    "flash_attn": "auto",
    "n_seq_max": 1,
    "kv_unified": "false",
    "arch": "llama",
    "n_layer": 80,
    "n_head": "64",
    "n_head_kv": "8",
    "n_embd": 8192,
    "n_embd_k_gqa": "1024",
    "n_embd_v_gqa": "1024",
    "n_vocab": 128256,
    "n_swa": 0,
    "mla_attn": None,
    "cmd": "ollama runner --ollama-engine --port 42693",
    "quote": "llama_kv_cache: CUDA0 KV buffer size = 2560.00 MiB | llama_context: CUDA0 compute buffer size = 266.50",
    "measured": {
        "model_gpu_mib": 39979.48,
        "model_host_mib": 563.62,
        "kv_mib": 2560.0,
        "kv_mib_k": 1280.0,
        "kv_mib_v": 1280.0,
        "kv_gpu_mib": 2560.0,
        "compute_buffer_mib": 266.5,
        "host_buffer_mib": 32.01,
        "output_buffer_mib": 0.52,
        "kv_cells": [8192],
        "per_device": {
            "model": [["CPU_Mapped", 563.62], ["CUDA0", 39979.48]],
            "KV": [["CUDA0", 2560.0]],
            "compute": [["CUDA0", 266.5], ["CUDA_Host", 32.01]],
        },
    },
}


def _errors(row: dict[str, Any]) -> dict[str, float | str]:
    """Relative errors by quantity, or why there is none."""
    outcomes = list(score([("row", row)]))
    return {one.quantity: one.refused if one.refused else one.relative_error or 0.0 for one in outcomes}


def test_every_line_of_a_log_is_what_was_printed() -> None:
    """Weights, cache, computation and logits of a whole model on one GPU, to the last decimal."""
    found = _errors(ROW)
    assert "read off this very line" in str(found.pop("kv_gpu_mib"))
    assert len(found) == 8
    assert max(abs(float(error)) for error in found.values()) < 1e-5, found


@pytest.mark.parametrize(
    ("change", "quantity", "reason"),
    [
        ({"n_seq_max": None}, "output_buffer_mib", "how many slots"),
        ({"quant": "IQ3_K - 3.4325 bpw"}, "model_gpu_mib", "not said exactly"),
        ({"cmd": "llama-server -ot exps=CUDA1"}, "compute_buffer_mib", "-ot sends tensors"),
        ({"model": "somebody's own"}, "model_gpu_mib", "no config of this model"),
        ({"n_ctx": 100}, "kv_mib", "does not pad"),
        ({"kv_dtype": "int3"}, "kv_mib", "not a type"),
    ],
)
def test_what_a_row_lacks_is_named(change: dict[str, Any], quantity: str, reason: str) -> None:
    """Only the lines that depend on it are refused."""
    assert reason in str(_errors({**copy.deepcopy(ROW), **change})[quantity])


def test_a_model_that_is_not_known_is_its_numbers() -> None:
    """The cache needs no config where the log gives widths and layers."""
    found = _errors({**copy.deepcopy(ROW), "model": "somebody's own"})
    assert found["kv_mib"] == 0.0


_ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(), st.text(max_size=5), st.just([]), st.just({}),
    st.lists(st.lists(st.one_of(st.text(max_size=4), st.floats(), st.none()), max_size=2), max_size=3),
    st.just("9" * 400),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(key=st.sampled_from(sorted(ROW)), value=_ODD, lines=st.sampled_from(["model", "KV", "compute", ""]))
def test_odd_rows_end_in_a_sentence(key: str, value: Any, lines: str) -> None:
    """Whatever a row says, it is estimated or refused."""
    row = copy.deepcopy(ROW)
    if lines:
        row["measured"]["per_device"][lines] = value
    else:
        row[key] = value
    try:
        asks = question(row, subject(row)).asks
    except OomphError:
        return
    for ask in asks.values():
        with suppress(OomphError):
            ask()


@pytest.mark.slow
@pytest.mark.shared
def test_published_logs() -> None:
    """The cache is exact in all but a few, compute buffers and weights in the median."""
    lines = (SHARED / "truth" / "inference.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "llama" in row["engine"]]
    errors: dict[str, list[float]] = {}
    for one in score((str(at), row) for at, row in enumerate(rows)):
        if not one.refused and one.relative_error is not None:
            errors.setdefault(one.quantity, []).append(abs(one.relative_error))
    cached = errors["kv_mib"]
    assert len(cached) > 80
    assert sum(error <= 0.001 for error in cached) / len(cached) >= 0.97
    assert median(errors["compute_buffer_mib"]) <= 0.03
    assert median(errors["model_gpu_mib"]) <= 0.001
