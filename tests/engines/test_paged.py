"""TensorRT-LLM, TGI and LMDeploy: their blocks against published lines, their pools against each other's rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.answer import subject
from oomph.blocks.cached import TokenCache
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.command_line import read_text
from oomph.engines.lmdeploy import LmdeployJob
from oomph.engines.lmdeploy import block as lmdeploy_block
from oomph.engines.paged import ASIDE
from oomph.engines.tgi import TgiJob, attention
from oomph.engines.trtllm import TrtllmJob
from oomph.engines.trtllm import block as trtllm_block
from oomph.errors import OomphError, UnsupportedError, UsageError
from oomph.units import GIB

JOBS: dict[str, Any] = {
    "trtllm": TrtllmJob(),
    "tgi": TgiJob(),
    "lmdeploy": LmdeployJob(quant_policy=8),
}


def _printed(name: str, model: str, job: Any, devices: list[Any]) -> dict[str, tuple[float, float | None]]:
    found = engine(name).deploy(subject(model), job, devices)
    return {each.name: (each.value, each.safe) for each in found.printed}


@pytest.mark.parametrize(
    ("model", "width", "tokens", "gib"),
    [
        ("llama-3.1-8b", 2, 12800, 1.56),
        ("llama-3.1-8b", 2, 220480, 26.91),
        ("llama-3.1-8b", 1, 263008, 16.05),
        ("qwen3-0.6b", 2, 643136, 68.69),
    ],
)
def test_bytes_of_a_token_are_tensorrt_llms(model: str, width: int, tokens: int, gib: float) -> None:
    """Lines of four logs: Allocated so many GiB for max tokens in paged KV cache."""
    made = trtllm_block(subject(model).model, TrtllmJob(), width)
    assert tokens * made.token_bytes / GIB == pytest.approx(gib, abs=0.006)
    assert tokens % made.tokens == 0


def test_a_log_of_tensorrt_llm_on_an_h100() -> None:
    """Qwen3-0.6B with the defaults of the PyTorch backend: 643,136 tokens, 68.69 GiB.

    Source: notes of a run in a public repository (stored code index, file id 66094399229).
    """
    tokens, least = _printed("trtllm", "qwen3-0.6b", TrtllmJob(), [find("h100-sxm")])["kv_tokens"]
    assert tokens == pytest.approx(643136, rel=0.005)
    assert least is not None
    assert least <= 643136


def test_a_log_of_an_engine_that_has_17_83_gib_free() -> None:
    """available: 17.83 GiB, 8,219 blocks of 32 tokens with 8-bit keys, 16.05 GiB: nine tenths of what is free."""
    made = trtllm_block(subject("llama-3.1-8b").model, TrtllmJob(), 1)
    assert int(17.83 * GIB * 0.9) // made.n_bytes == pytest.approx(8219, abs=3)


def test_a_block_of_lmdeploy() -> None:
    """block_size = 8.000 MB for InternLM2.5-7B (lmdeploy issue 3411); with 4 bits there are scales beside."""
    model = subject("llama-3.1-8b").model  # of the same shape
    assert lmdeploy_block(model, LmdeployJob()).n_bytes == 8 * 2**20
    per_token = 32 * 8 * 2
    assert lmdeploy_block(model, LmdeployJob(quant_policy=4)).token_bytes == per_token * (128 // 2 + 4)
    assert lmdeploy_block(model, LmdeployJob(tensor_parallel=16)).token_bytes == per_token // 8 * 128 * 2


def test_lmdeploy_holds_a_tied_embedding_twice() -> None:
    """Qwen2.5-0.5B's head is its embedding once more."""
    found = engine("lmdeploy").deploy(subject("qwen2.5-0.5b"), LmdeployJob(), [find("t4")])
    assert found.shares[0].items[1].n_bytes == 151936 * 896 * 2


def test_kernels_say_how_large_tgis_blocks_are() -> None:
    """Heads that flashinfer knows, others, and GPUs without flash attention."""
    t4, h100 = find("t4"), find("h100")
    assert attention(TokenCache(8, 128, 128), "llama", TgiJob(), t4) == "flashinfer"
    assert attention(TokenCache(8, 80, 80), "phi", TgiJob(), h100) == "flashdecoding"
    assert attention(TokenCache(8, 80, 80), "phi", TgiJob(), t4) == "paged"
    assert attention(TokenCache(8, 64, 64), "falcon", TgiJob(), h100) == "flashdecoding"
    assert attention(TokenCache(8, 64, 64), "falcon", TgiJob(attention="paged"), h100) == "paged"


@pytest.mark.parametrize("name", JOBS)
def test_a_device_holds_no_more_than_it_has(name: str) -> None:
    """All items and the pool add up to the memory, at least what is never taken is left, two devices have more room."""
    h100 = find("h100-sxm")
    found = engine(name).deploy(subject("llama-3.1-8b"), JOBS[name], [h100])
    share = found.shares[0]
    assert sum(item.n_bytes for item in share.items) + (share.room_bytes or 0) == share.capacity_bytes
    assert share.items[-1].name == ASIDE
    assert share.items[-1].n_bytes > 0.05 * h100.capacity_bytes
    field = "num_shard" if name == "tgi" else "tensor_parallel"
    two: Any = {field: 2}
    alone = _printed(name, "llama-3.1-8b", JOBS[name], [h100])["kv_tokens"][0]
    assert _printed(name, "llama-3.1-8b", replace(JOBS[name], **two), [h100, h100])["kv_tokens"][0] > 2 * alone
    for printed in found.printed:
        assert printed.safe is None or printed.safe <= printed.value


@given(name=st.sampled_from(list(JOBS)), context=st.integers(1, 2**17), concurrency=st.integers(1, 2000))
@settings(max_examples=30, deadline=None)
def test_a_map_is_what_single_answers_are(name: str, context: int, concurrency: int) -> None:
    """Numbers and arrays of them need the same, and items add up to it."""
    np = pytest.importorskip("numpy")
    share = engine(name).deploy(subject("llama-3.1-8b"), JOBS[name], [find("h200")]).shares[0]
    one = int(share.needs(context, concurrency))
    grid = share.needs(np.array([context, context + 1]), concurrency)
    assert [int(each) for each in grid] == [one, int(share.needs(context + 1, concurrency))]
    assert sum(item.n_bytes for item in share.held(context, concurrency)) == one


LINES = {
    "trtllm": (
        "trtllm-serve org/m --tp_size 2 --kv_cache_free_gpu_memory_fraction 0.8 --max_num_tokens 4096 --host 0.0.0.0",
        TrtllmJob(tensor_parallel=2, free_gpu_memory_fraction=0.8, max_num_tokens=4096),
    ),
    "tgi": (
        "ATTENTION=paged text-generation-launcher --model-id org/m --max-batch-prefill-tokens 4096 --num-shard 2 -p 80",
        TgiJob(max_batch_prefill_tokens=4096, num_shard=2, attention="paged"),
    ),
    "lmdeploy": (
        "lmdeploy serve api_server org/m --tp 2 --cache-max-entry-count 0.5 --quant-policy 4 --server-port 80",
        LmdeployJob(tensor_parallel=2, cache_max_entry_count=0.5, quant_policy=4),
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_flags_are_read_and_written(name: str) -> None:
    """A pasted command is a job, and a job is that command."""
    line, job = LINES[name]
    found = read_text(line)
    assert (found.engine.name, found.model, found.job) == (name, "org/m", job)
    assert read_text(" ".join(engine(name).command("org/m", job))).job == job


@pytest.mark.parametrize(
    ("name", "model", "job", "why"),
    [
        ("trtllm", "qwen3-next-80b-a3b", TrtllmJob(), "states of recurrent layers"),
        ("trtllm", "deepseek-v3.2-exp", TrtllmJob(), "attention that picks its keys"),
        ("tgi", "deepseek-v3", TgiJob(max_batch_prefill_tokens=1), "cache of kind latent"),
        ("lmdeploy", "llama-3.1-8b", LmdeployJob(tensor_parallel=2), "ask for 2 devices"),
    ],
)
def test_what_is_not_modelled_is_refused(name: str, model: str, job: Any, why: str) -> None:
    """By name."""
    with pytest.raises(OomphError, match=why):
        engine(name).deploy(subject(model), job, [find("h100")])


@pytest.mark.parametrize(
    ("made", "wrong"),
    [
        (TrtllmJob, {"tokens_per_block": 48}),
        (TrtllmJob, {"free_gpu_memory_fraction": 1.0}),
        (TrtllmJob, {"tensor_parallel": 4, "expert_parallel": 3}),
        (TgiJob, {"cuda_memory_fraction": 0.0}),
        (TgiJob, {"max_input_tokens": 8, "max_total_tokens": 8}),
        (LmdeployJob, {"cache_max_entry_count": 3000.0}),
        (LmdeployJob, {"session_len": 0}),
        (LmdeployJob, {"version": "x"}),
    ],
)
def test_values_that_engines_do_not_take(made: Any, wrong: dict[str, Any]) -> None:
    """An error with a fix."""
    with pytest.raises(UsageError):
        made(**wrong)


def test_what_is_not_modelled_of_flags() -> None:
    """Old shares, other widths of keys."""
    with pytest.raises(UnsupportedError):
        LmdeployJob(version="0.2.1")
    with pytest.raises(UnsupportedError):
        TrtllmJob(kv_cache_dtype="nvfp4")


@pytest.mark.parametrize("name", ["trtllm", "lmdeploy", "tgi", "sglang"])
def test_a_refusal_speaks_of_no_other_engine(name: str) -> None:
    """Heads that do not divide among three devices are told without naming the engine the rule was read in."""
    program = engine(name)
    width = "num_shard" if name == "tgi" else "tensor_parallel"
    job: Any = replace(program.job(context=4096), **{width: 3})  # type: ignore[arg-type]
    with pytest.raises(OomphError) as caught:
        program.deploy(subject("llama-3.1-8b"), job, [find("h100")] * 3)
    assert "vLLM" not in str(caught.value)


def test_an_engine_that_was_built_beforehand_is_refused() -> None:
    """TensorRT-LLM's other backends take memory by other rules; theirs is no flag to pass over."""
    with pytest.raises(OomphError, match="tensorrt"):
        read_text("trtllm-serve llama --backend tensorrt")
    assert read_text("trtllm-serve llama --backend pytorch").passed_over == ()


@pytest.mark.parametrize("name", JOBS)
def test_what_was_not_looked_at_is_said(name: str) -> None:
    """BLOOM may be none of an engine's models: the answer says that it was not looked at."""
    found = engine(name).deploy(subject("bloom-560m"), replace(JOBS[name], context=1024), [find("h100")])
    assert any("bloom" in said and "not looked at" in said for said in found.assumptions)
