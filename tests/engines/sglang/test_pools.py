"""SGLang's pools against the lines of its start-up logs (logs.json, and published ones)."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.answer import subject
from oomph.engines import engine
from oomph.engines.flags import read_flags
from oomph.engines.sglang.job import SglangJob
from oomph.engines.sglang.pools import Cells, cells, page_size, pools
from oomph.errors import UnsupportedError
from oomph.units import GIB

LOGS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "logs.json").read_text())["rows"]
ROUNDED = 0.05  # GiB: figures of two decimals, and of one rank where the least of all counts


def _job(log: dict[str, Any]) -> SglangJob:
    steps, top, tokens = log["drafted"] or (None, None, None)
    said = {name: log[name] for name in ("tensor_parallel", "data_parallel", "dp_attention", "page_size")}
    return SglangJob(
        version="0.5.6",
        mem_fraction_static=log["mem_fraction_static"],
        max_running_requests=log["max_running_requests"],
        speculative_algorithm="EAGLE" if steps else None,
        speculative_num_steps=steps,
        speculative_eagle_topk=top,
        speculative_num_draft_tokens=tokens,
        **said,
    )


def _tokens(log: dict[str, Any], more: float = 0.0) -> int:
    """Return the tokens that the memory of a log makes, with so many GiB more."""
    job = _job(log)
    left = log["after_gb"] - log["before_gb"] * (1 - log["mem_fraction_static"]) + more
    return pools(int(left * GIB), cells(subject(log["model"]), job), job, 1).tokens


@pytest.mark.parametrize("log", LOGS, ids=lambda log: str(log["log"])[-40:])
def test_tokens_are_those_of_the_log(log: dict[str, Any]) -> None:
    """Latent vectors, indexers, grouped heads among copies of attention, a draft's headroom: within the rounding."""
    assert _tokens(log, -ROUNDED) <= log["tokens"] <= _tokens(log, ROUNDED)


def test_most_logs_are_met_to_a_thousandth() -> None:
    """The median of all is off by less than 0.15 %."""
    assert median(abs(_tokens(log) / log["tokens"] - 1) for log in LOGS) < 0.0015


@pytest.mark.parametrize("log", LOGS, ids=lambda log: str(log["log"])[-40:])
def test_bytes_are_those_of_the_log(log: dict[str, Any]) -> None:
    """K size and V size, the padding page in them; an NPU's indexer keys are 16 bits wide, which is no rule of CUDA."""
    cell = cells(subject(log["model"]), _job(log))
    full = cell.full - cell.picked + (cell.picked // 132) * 256
    assert (log["tokens"] + log["page_size"]) * full / GIB == pytest.approx(log["kv_gb"], abs=0.011)


def test_windows_have_a_pool_of_their_own() -> None:
    """A log of DiffusionGemma with pages of 256: swa 56,320 tokens beside 70,656."""
    made = pools(2**36, Cells(10, 20, 1024), SglangJob(page_size=256))
    assert made.windows_of(70656) == 56320


def test_only_models_that_sglang_knows_have_it() -> None:
    """gpt-oss has pools of windows; Gemma 3's windowed layers keep every token, all 62 x 16 x 2 x 128 x 2 bytes."""
    assert cells(subject("gpt-oss-20b"), SglangJob()) == Cells(24576, 24576, 128, 0, 0, 12)
    assert cells(subject("gpt-oss-20b"), SglangJob(disable_hybrid_swa_memory=True)).full == 49152
    assert cells(subject("gemma-3-27b-it"), SglangJob()) == Cells(62 * 16 * 256 * 2, 0, 0, 0, 0, 62)


def test_heads_are_shared_or_copied() -> None:
    """With more devices than key heads each has one; copies of attention keep more of them."""
    model = subject("qwen3-32b")
    whole = cells(model, SglangJob()).full
    assert cells(model, SglangJob(tensor_parallel=4)).full == whole // 4
    assert cells(model, SglangJob(tensor_parallel=16)).full == whole // 8
    spread = SglangJob(tensor_parallel=16, data_parallel=8, dp_attention=True)
    assert cells(model, spread).full == whole // 2
    assert cells(model, SglangJob(kv_cache_dtype="fp8_e4m3")).full == whole // 2


def test_a_latent_that_is_picked_from() -> None:
    """DeepSeek-V3.2: 576 numbers and a key of 132 bytes; in fp8 656 bytes, as its kernels lay it out."""
    model = subject("deepseek-v3.2-exp")
    assert cells(model, SglangJob(kv_cache_dtype="bf16")).full == 61 * (576 * 2 + 132)
    assert cells(model, SglangJob(kv_cache_dtype="fp8_e4m3")).full == 61 * (656 + 132)


def test_a_draft_is_counted_in_a_cell() -> None:
    """From 0.5.14 on the model's prediction layer takes its share; before it was beside the pools."""
    model = subject("deepseek-v3")
    job = SglangJob(speculative_algorithm="EAGLE", tensor_parallel=8)
    cell = cells(model, job)
    assert pools(2**34, cell, job, 1).tokens == 2**34 // (62 * 1152)
    before = SglangJob(speculative_algorithm="EAGLE", tensor_parallel=8, version="0.5.9")
    assert pools(2**34, cell, before, 1).tokens == 2**34 // (61 * 1152)


def test_a_pool_of_windows_by_requests_is_refused() -> None:
    """Without a radix cache SGLang sizes it otherwise."""
    with pytest.raises(UnsupportedError, match="sizes the pool of windows by requests"):
        pools(2**34, Cells(10, 20, 128), SglangJob(disable_radix_cache=True, max_running_requests=4))


def test_states_take_their_share() -> None:
    """0.9 bytes of states to one of tokens: 2.77 to 3.04 GiB and 4.48 to 5.0 GiB in published logs."""
    state, budget = 10 * 2**20, 10 * GIB
    made = pools(budget, Cells(1024, state=state), SglangJob())
    assert (made.states + 1) * state / (made.tokens * 1024) == pytest.approx(0.9, rel=0.005)
    assert (made.states + 1) * state + made.tokens * 1024 <= budget
    assert pools(budget, Cells(1024, state=state), SglangJob(max_mamba_cache_size=7)).states == 7


@given(
    budget=st.integers(0, 2**40),
    more=st.integers(0, 2**30),
    full=st.integers(1, 2**20),
    swa=st.integers(0, 2**20),
    state=st.sampled_from([0, 1, 2**20]),
    page=st.sampled_from([1, 64, 256]),
)
def test_pools_stay_in_their_budget(budget: int, more: int, full: int, swa: int, state: int, page: int) -> None:
    """All pools are in the budget, without their padding pages, and more memory never makes fewer tokens."""
    job = SglangJob(page_size=page)
    made = pools(budget, Cells(full, swa, 128 if swa else 0, state, 0, 1), job)
    states = (made.states + 1) * state if made.states else 0
    windows = made.windows_of(made.tokens)
    assert made.tokens * full + windows * swa + states <= max(budget, states)
    assert made.tokens % page == 0
    assert windows % page == 0
    if not state:
        assert pools(budget + more, Cells(full, swa, 128 if swa else 0, 0, 0, 1), job).tokens >= made.tokens


def test_states_of_a_log() -> None:
    """Qwen3.5-397B-A17B on two devices: 82 states, conv 0.13 GB and ssm 7.29 GB, beside 580,364 tokens of 8.30 GB.

    Source: a log in issue 1870 of kvcache-ai/ktransformers, which starts SGLang. What was free is not in it; whatever
    that was, a budget that makes so many tokens makes so many states.
    """
    job = SglangJob(tensor_parallel=2)
    cell = cells(subject("qwen3.5-397b-a17b"), job)
    states, tokens = 83 * cell.state, (580364 + 1) * cell.full
    assert states / GIB == pytest.approx(0.13 + 7.29, abs=0.01)
    assert tokens / GIB == pytest.approx(8.30, abs=0.01)
    made = pools(states + tokens, cell, job)
    assert made.states == 82
    assert made.tokens == pytest.approx(580364, abs=1)


def test_kernels_take_pages_of_their_own() -> None:
    """--attention-backend moves the size of a page, and so the tokens of the pool; it is not passed over."""
    job: Any = read_flags(engine("sglang"), ["--attention-backend", "trtllm_mla", "--page-size", "16"]).job
    assert page_size(job, Cells(1152)) == 64
    made = pools(1152 * 1000, Cells(1152), SglangJob(decode_attention_backend="flashmla"))
    assert (made.page, made.tokens) == (64, 960)
