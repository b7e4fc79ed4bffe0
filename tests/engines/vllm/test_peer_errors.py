"""What other estimators say of vLLM's cache and what vLLM does (facts of peers' errors, K10, K11, K19)."""

from __future__ import annotations

from functools import cache

import pytest

from oomph.answer import Subject, subject
from oomph.devices import find
from oomph.engines.vllm import VllmJob, deploy
from oomph.engines.vllm.pages import layer_pages
from oomph.units import GIB

V19 = "0.19.0"


@cache
def _model(name: str) -> Subject:
    return subject(name)


def _needed(name: str, job: VllmJob, context: int, concurrency: int = 1) -> float:
    """Return the GiB that requests take on the first device."""
    return float(deploy(_model(name), job).shares[0].needs(context, concurrency) / GIB)


@pytest.mark.parametrize(("step", "by_layer"), [(2048, 3.725), (8192, 6.163)])
def test_windows_keep_a_step_beside_what_they_see(step: int, by_layer: float) -> None:
    """K10: Gemma 3 27B at 32k takes 3.725 GiB in steps of 2048 tokens, not 15.5; padding 52 windows to 60 adds some."""
    job = VllmJob(version=V19, max_num_batched_tokens=step)
    pages = layer_pages(_model("gemma-3-27b-it"), job, "bf16")
    alone = sum(page.pages(32768, step) * page.n_bytes for _, page in pages)
    assert alone / GIB == pytest.approx(by_layer, abs=5e-4)
    padded = 10 * (2048 + 6 * (-(-(1023 + step) // 16) + 1)) * pages[0][1].n_bytes
    assert _needed("gemma-3-27b-it", job, 32768) * GIB == padded
    whole = VllmJob(version=V19, max_num_batched_tokens=step, disable_hybrid_kv_cache_manager=True)
    assert _needed("gemma-3-27b-it", whole, 32768) == 15.5


def test_the_printed_tokens_are_no_cost_of_a_token() -> None:
    """K11: gpt-oss-120b at 32k takes 1.2 GiB, not the 2.25 that GiB over printed tokens times 32k would make."""
    job = VllmJob(version=V19, max_num_batched_tokens=2048, kv_cache_memory_bytes=8 * GIB)
    found = deploy(_model("gpt-oss-120b"), job, [find("h100-sxm")])
    tokens = next(each.value for each in found.printed if each.name == "kv_tokens")
    assert 8 * 32768 / tokens == pytest.approx(2.25, rel=1e-3)
    assert found.shares[0].needs(32768, 1) / GIB == pytest.approx(1.2, abs=5e-3)


def test_stages_hold_the_keys_of_their_own_layers() -> None:
    """K19: 256 requests of 4096 tokens of Llama 3.1 8B take 128 GiB, 64 on each of two stages or of two devices."""
    for flags, gib in ({}, 128.0), ({"pipeline_parallel": 2}, 64.0), ({"tensor_parallel": 2}, 64.0):
        assert _needed("llama-3.1-8b", VllmJob(version=V19, **flags), 4096, 256) == gib  # type: ignore[arg-type]


def test_latent_vectors_are_on_every_device() -> None:
    """DeepSeek-V3 keeps 576 numbers a token and layer on each of eight devices, however many there are."""
    for tp in (1, 8):
        needed = _needed("deepseek-v3", VllmJob(version=V19, tensor_parallel=tp), 1024) * GIB
        assert needed == 61 * 576 * 2 * 1024
