"""Start-up logs out of public issue threads, none of them a scored row: searched for after vLLM was modelled.

Where a log says how much memory the cache got, that is given, and what vLLM makes of it is compared.
"""

from __future__ import annotations

from typing import Any

import pytest

from oomph.answer import subject
from oomph.devices import find
from oomph.engines.vllm import VllmJob, deploy
from oomph.units import GIB

H100, RTX3090 = "h100-sxm", "rtx-3090"
FP8 = {"format": "fp8", "kv_cache_dtype": "fp8"}
HYBRID = {"kv_cache_dtype": "fp8", "max_num_batched_tokens": 8192, "enable_prefix_caching": True}
MTP = '{"method": "mtp", "num_speculative_tokens": 3}'


LOADED: list[tuple[str, str, dict[str, Any], list[str], float, float]] = [
    # thread, model, flags, devices, what loading took in GiB, how far off an answer may be in GiB
    ("vllm#10517", "llama-3.1-8b-instruct", {"version": "0.6.4"}, [RTX3090], 14.9888, 0.001),
    ("vllm#12569", "llama-3.1-70b", {"version": "0.7.1", "format": "w8a8"}, [H100], 67.7229, 0.02),
    ("vllm#12529", "deepseek-r1-distill-qwen-1.5b", {"version": "0.7.3"}, [RTX3090], 3.3414, 0.005),
    ("mellea#416", "qwen3-0.6b", {"version": "0.9.1"}, [H100], 1.12, 0.005),
    (
        "vllm#13061",
        "deepseek-r1-distill-qwen-14b",
        {"version": "0.7.2", "tensor_parallel": 2},
        [RTX3090] * 2,
        13.9476,
        0.005,
    ),
    ("vllm#17469", "qwen3-30b-a3b", {"version": "0.8.5", "tensor_parallel": 4}, [RTX3090] * 4, 14.2474, 0.002),
    ("vllm#17327", "qwen3-30b-a3b", {"version": "0.8.5", "format": "w4a16"}, [RTX3090], 15.6841, 0.005),
    ("vllm#21648", "qwen3-14b", {"version": "0.10.0", "format": "fp8"}, ["rtx-5090"], 15.3341, 0.001),
    ("vllm#23278", "gpt-oss-120b", {"version": "0.10.1"}, [H100], 65.9651, 0.002),
    ("vllm#33155", "gpt-oss-120b", {"version": "0.14.1"}, [H100], 64.38, 0.08),
    ("vllm#25350", "qwen3-30b-a3b", {"version": "0.10.2", **FP8}, ["rtx-a6000"], 29.09, 0.05),
    (
        "vllm#13109",
        "deepseek-v2-lite",
        {"version": "0.7.3", "format": "awq-g64", "dtype": "float16"},
        [H100],
        10.45,
        0.05,
    ),
]

CACHED: list[tuple[str, str, dict[str, Any], float, dict[str, float], float]] = [
    # thread, model, flags, GiB of the cache, what is printed, how far off an answer may be
    (
        "vllm#10517",
        "llama-3.1-8b-instruct",
        {"version": "0.6.4", "max_model_len": 20000},
        3.81,
        {"kv_blocks": 1952, "max_concurrency": 1.56},
        0.002,
    ),
    (
        "vllm#12529",
        "deepseek-r1-distill-qwen-1.5b",
        {"version": "0.7.3", "max_model_len": 2000},
        2.20,
        {"kv_blocks": 5148, "max_concurrency": 41.18},
        0.002,
    ),
    (
        "mellea#416",
        "qwen3-0.6b",
        {"version": "0.9.1", "max_model_len": 8192},
        61.84,
        {"kv_blocks": 36184, "max_concurrency": 70.67},
        0.001,
    ),
    (
        "vllm#22177",
        "qwen3-coder-30b-a3b",
        {"version": "0.10.0", "tensor_parallel": 8, "enable_expert_parallel": True, "max_model_len": 262144},
        12.22,
        {"kv_tokens": 534064, "max_concurrency": 2.04},
        0.001,
    ),
    (
        "vllm#25350",
        "qwen3-30b-a3b",
        {"version": "0.10.2", **FP8, "max_model_len": 100000},
        10.55,
        {"kv_tokens": 230528, "max_concurrency": 2.31},
        0.005,
    ),
    (
        "club-3090#612",
        "qwen3.6-35b-a3b",
        {"version": "0.24.0", **HYBRID, "max_model_len": 131072, "max_num_seqs": 1},
        5.98,
        {"kv_tokens": 567978, "max_concurrency": 4.33},
        1e-6,
    ),
    (
        "club-3090#594",
        "qwen3.6-27b",
        {
            "version": "0.24.0",
            **HYBRID,
            "format": "fp8",
            "tensor_parallel": 2,
            "max_model_len": 262144,
            "max_num_seqs": 2,
            "speculative_config": MTP,
        },
        5.33,
        {"kv_tokens": 300220, "max_concurrency": 1.15},
        1e-6,
    ),
    (
        "club-3090#652",
        "qwen3.6-35b-a3b",
        {
            "version": "0.24.0",
            **HYBRID,
            "max_model_len": 131072,
            "max_num_seqs": 1,
            "limit_mm_per_prompt": '{"image": 2, "audio": 0}',
        },
        6.01,
        {"kv_tokens": 569878, "max_concurrency": 4.35},
        1e-6,
    ),
    (
        "club-3090#642",
        "qwen3.6-27b",
        {
            "version": "0.24.0",
            **HYBRID,
            "format": "autoround-4bit-g128",
            "dtype": "float16",
            "kv_cache_dtype": "fp8_e5m2",
            "tensor_parallel": 2,
            "max_model_len": 262144,
            "max_num_seqs": 2,
            "speculative_config": MTP,
        },
        11.05,
        {"kv_tokens": 623873, "max_concurrency": 2.38},
        0.005,
    ),
    (
        "talos-argocd#1995",
        "qwen3.8-27b",
        {
            "version": "0.27.0",
            **HYBRID,
            "format": "fp8",
            "tensor_parallel": 2,
            "max_model_len": 131072,
            "max_num_seqs": 2,
        },
        4.99,
        {"kv_tokens": 302921, "max_concurrency": 2.31},
        1e-6,
    ),
    (
        "vllm#13109",
        "deepseek-v2-lite",
        {"version": "0.7.3", "dtype": "float16"},
        59.75,
        {"kv_blocks": 116023, "max_concurrency": 11.33},
        0.001,
    ),
]


def _printed(model: str, flags: dict[str, Any], devices: list[str]) -> dict[str, float]:
    answer = deploy(subject(model), VllmJob(**flags), [find(name) for name in devices])
    return {line.name: line.value for line in answer.printed}


@pytest.mark.parametrize(
    ("thread", "model", "flags", "devices", "logged", "within"), LOADED, ids=[each[0] for each in LOADED]
)
def test_what_loading_took(
    thread: str, model: str, flags: dict[str, Any], devices: list[str], logged: float, within: float
) -> None:
    """Weights on the fullest device are what threads show."""
    assert _printed(model, flags, devices)["weights_gib"] == pytest.approx(logged, abs=within), thread


@pytest.mark.parametrize(
    ("thread", "model", "flags", "gib", "logged", "within"), CACHED, ids=[each[0] for each in CACHED]
)
def test_what_a_cache_holds(
    thread: str, model: str, flags: dict[str, Any], gib: float, logged: dict[str, float], within: float
) -> None:
    """Blocks, tokens and requests that vLLM makes of the memory a thread shows."""
    devices = [H100] * flags.get("tensor_parallel", 1)
    found = _printed(model, {**flags, "kv_cache_memory_bytes": int(gib * GIB)}, devices)
    assert {name: found[name] for name in logged} == pytest.approx(logged, rel=within), thread


@pytest.mark.parametrize(
    ("model", "stages", "context", "needed"), [("qwen3-coder-30b-a3b", 2, 262144, 24.0), ("glm-4.6", 8, 202752, 71.16)]
)
def test_one_request_of_the_whole_model_against_each_stage(
    model: str, stages: int, context: int, needed: float
) -> None:
    """What vLLM 0.15 wants of every stage before it starts (vllm#34076, #32105); 0.12 and 0.19 want a stage's own."""
    flags = {"format": "fp8", "pipeline_parallel": stages, "max_model_len": context}
    for version, of in (("0.12.0", stages), ("0.15.0", 1), ("0.19.0", stages)):
        job = VllmJob(version=version, **flags)  # type: ignore[arg-type]
        asked = max(share.needs(context, 1) for share in deploy(subject(model), job, [find(H100)] * stages).shares)
        assert asked / GIB == pytest.approx(needed / of, rel=0.05 if of > 1 else 1e-3)
