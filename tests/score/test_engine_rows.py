"""Rows of engines' logs: what each line is estimated from, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from tests.score.rows import changed
from tests.score.test_readers import reasons, scored

# A start-up log of SGLang on 16 NPUs, four copies of attention on four devices each.
SGLANG: dict[str, Any] = {
    "id": "by-hand-sglang",
    "engine": "sglang",
    "engine_version": None,
    "model": "Qwen3-Coder-480B-A35B-Instruct-w8a8-QuaRot",
    "quant": "w8a8",
    "kv_dtype": "auto(bf16)",
    "gpu": "Ascend NPU 64GB class",
    "tp": 16,
    "pp": 1,
    "dp": 4,
    "attn_tp": 4,
    "dp_attention": True,
    "page_size": 128,
    "spec": "None",
    "mem_fraction_static": 0.7,
    "measured": {"mem_before_load_gib": 60.8, "weights_gib": 33.25, "kv_tokens": 157184, "kv_cache_gib": 9.3},
    "quote": "Load weight end. type=Qwen3MoeForCausalLM, avail mem=27.54 GB",
    "confidence": "high",
    "notes": [],
}


def test_tokens_of_sglang_are_made_of_memory() -> None:
    """60.8 x 0.7 - 33.25 GiB in pages of 128 tokens of 63,488 bytes, and the line of GiB the same."""
    found = scored(SGLANG)
    tokens = int((60.8 * 0.7 - 33.25) * 2**30) // 63488 // 128 * 128
    assert found["kv_tokens"].predicted == tokens
    assert abs(found["kv_tokens"].relative_error or 1) < 0.003
    assert found["kv_cache_gib"].predicted == pytest.approx((tokens + 128) * 63488 / 2**30)


def test_where_memory_is_not_said_one_line_is_made_of_the_other() -> None:
    """A log of Qwen3-235B at tp 4 says 367,404 tokens, and 8.23 GB of keys and of values."""
    row = {
        "id": "x", "engine": "sglang", "model": "Qwen/Qwen3-235B-A22B-FP8", "tp": 4, "pp": 1, "dp": 1,
        "measured": {"kv_tokens": 367404, "kv_cache_gib": 16.46}, "confidence": "high",
    }  # fmt: skip
    found = scored(row)
    assert found["kv_tokens"].predicted == pytest.approx(367404, rel=0.001)
    assert found["kv_cache_gib"].predicted == pytest.approx((367404 + 1) * 94 * 1 * 256 * 2 / 2**30)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attn_tp": 2}, "attn_tp=2: its flags make 4 of it"),
        ({"kv_dtype": "int3"}, "kv_dtype int3: not a dtype of a cache that oomph knows"),
        ({"tp": "many"}, "tp: many is not a whole number from 1 to 65536"),
        ({"model": "vllm-ascend/Qwen3-Next-80B-A3B-Instruct-W8A8", "attn_tp": None}, "a hybrid on an NPU"),
    ],
)
def test_rows_of_sglang_that_are_refused(changes: dict[str, Any], reason: str) -> None:
    """By the setting that is not known."""
    assert any(reason in str(found) for found in reasons(changed(SGLANG, **changes)))


# A start-up log of TensorRT-LLM 1.2.1 for a model of Llama 3.1 8B's shape.
TRTLLM: dict[str, Any] = {
    "id": "by-hand-trtllm",
    "engine": "tensorrt-llm",
    "model": "nemotron_llm (32 layers, 8 kv heads, head_dim 128)",
    "kv_dtype": "fp16",
    "tp": 1,
    "measured": {"kv_cache_gib": 1.5625, "kv_tokens": 12800, "block_size": 32},
    "confidence": "high",
}


def test_the_lines_of_tensorrt_llm() -> None:
    """12,800 tokens of 131,072 bytes are 1.5625 GiB, and as many blocks of 32."""
    found = scored(TRTLLM)
    assert found["kv_cache_gib"].predicted == 1.5625
    assert found["kv_tokens"].predicted == 12800
    assert "is no number of tokens" in str(reasons(changed(TRTLLM, measured={"block_size": 33})))
    assert "not a dtype of a cache" in str(reasons(changed(TRTLLM, kv_dtype=7)))


# A row of a notebook whose own log says more: version, rank, settings of the allocator.
NOTEBOOK: dict[str, Any] = {
    "id": "by-hand-notebook",
    "engine": "vllm",
    "model": "unsloth/meta-llama-3.1-8b-instruct-unsloth-bnb-4bit",
    "quant": "bnb-nf4 (unsloth dynamic)",
    "gpu": "Tesla T4",
    "gpu_total_gib": 14.74,
    "tp": 1,
    "max_model_len": 1024,
    "gpu_memory_utilization": 0.5943,
    "measured": {"weights_gib": 5.5976, "kv_cache_gib": 2.39},
    "confidence": "high",
    "notes": "Unsloth fast_inference (vLLM V0, LoRA slots enabled)",
    "source_url": "https://github.com/unslothai/notebooks/blob/bdda2ef/nb/AMD-Llama3.1_(8B)-GRPO.ipynb",
}


def test_what_the_page_of_a_row_logs_is_used() -> None:
    """The page names the map that is left in 16 bits, the version and the rank: 5.5976 GiB, as printed."""
    assert scored(NOTEBOOK)["weights_gib"].predicted == pytest.approx(5.5976, abs=1e-4)


@pytest.mark.parametrize("address", [None, "https://github.com/a/b/blob/c/d.log", "x" * 9000, 7])
def test_without_the_page_nothing_is_guessed(address: object) -> None:
    """A row that says no rank is refused where its page is not known."""
    assert any("slots for adapters" in str(found) for found in reasons(changed(NOTEBOOK, source_url=address)))
