"""A deployment of vLLM: its lines, its limits, and what a command line says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.answer import Subject, subject
from oomph.devices import find
from oomph.engines.vllm import ENGINE, VllmJob, command, deploy
from oomph.engines.vllm.job import parse_version, tokens
from oomph.engines.vllm.pages import layer_pages
from oomph.errors import OomphError, UnsupportedError, UsageError
from oomph.units import GIB

H100 = find("h100-sxm")


@cache
def _model(name: str) -> Subject:
    return subject(name)


def _lines(name: str, logged_gib: float, **flags: Any) -> dict[str, float]:
    """Return what is printed where the log says how many GiB are left for keys and values."""
    job = VllmJob(kv_cache_memory_bytes=round(logged_gib * GIB), **flags)
    found = deploy(_model(name), job, [H100] * job.ranks)
    return {each.name: each.value for each in found.printed}


LOGS = [
    # model, flags, GiB of the log, tokens, requests
    ("qwen3-4b", {"version": "0.12.0"}, 39.28, 285984, 6.98),
    ("qwen3-30b-a3b-instruct-2507", {"version": "0.12.0", "max_model_len": 4096}, 18.15, 198288, 48.41),
    ("llama-3-8b", {"version": "0.13.0", "tensor_parallel": 4}, 62.52, 2048704, 250.09),
    ("qwen3-235b-a22b-fp8", {"version": "0.10.0", "tensor_parallel": 8, "kv_cache_dtype": "fp8",
                             "max_model_len": 32768}, 35.74, 1594928, 48.67),
    ("deepseek-v2-lite", {"version": "0.19.0", "max_model_len": 8192}, 43.61, 1505552, 183.78),
    ("phi-3-mini-4k-instruct", {"version": "0.19.1", "max_num_batched_tokens": 2048}, 13.06, 35648, 8.67),
    ("qwen3.5-27b", {"version": "0.19.0", "max_model_len": 50000, "tensor_parallel": 4}, 7.56, 123088, 9.42),
    ("qwen3.6-27b", {"version": "0.27.1", "max_model_len": 4096}, 41.03, 292522, 71.42),
    ("qwen3.6-35b-a3b", {"version": "0.25.1", "speculative_config": '{"method": "mtp", "num_speculative_tokens": 3}'},
     74.22, 3366051, 12.84),
    ("gpt-oss-20b", {"version": "0.19.0", "max_model_len": 8192, "tensor_parallel": 2}, 59.32, 2591776, 316.07),
]  # fmt: skip


@pytest.mark.parametrize(("name", "flags", "logged", "kv_tokens", "requests"), LOGS)
def test_lines_are_those_of_the_log(
    name: str, flags: dict[str, Any], logged: float, kv_tokens: int, requests: float
) -> None:
    """Tokens and requests follow from the GiB of the log, to the rounding of those."""
    found = _lines(name, logged, **flags)
    assert found["kv_tokens"] == pytest.approx(kv_tokens, rel=0.006 / logged + 0.0003)
    assert found["max_concurrency"] == pytest.approx(requests, rel=0.006 / logged + 0.001)


def test_weights_are_printed_as_the_version_prints_them() -> None:
    """Four digits and "GB" in old versions, two digits of GiB in new ones."""
    texts = [
        deploy(_model("llama-3-8b"), VllmJob(version=version)).printed[0].text
        for version in ("0.8.5", "0.13.0", "0.19.0")
    ]
    assert texts == [
        "Model loading took 14.9596 GB memory",
        "Model loading took 14.9596 GiB memory",
        "Model loading took 14.96 GiB memory",
    ]


def test_one_request_takes_the_blocks_that_it_needs() -> None:
    """Keys of Llama 3 8B cost 131,072 bytes a token, in whole blocks of 16."""
    found = deploy(_model("llama-3-8b"), VllmJob(context=100))
    assert found.shares[0].needs(100, 3) == 3 * 7 * 16 * 131072
    assert [item.n_bytes for item in found.shares[0].held(100, 3)] == [3 * 7 * 16 * 131072]


def test_a_server_of_longer_requests_must_have_room_for_one() -> None:
    """vLLM does not start where one request of --max-model-len does not fit, however short the asked one is."""
    found = deploy(_model("llama-3-8b"), VllmJob(context=100, max_model_len=8192))
    assert found.shares[0].needs(100, 1) == 8192 * 131072
    assert found.limits["context"].most == 8192


def test_states_that_are_handed_out_take_a_page_more() -> None:
    """vLLM 0.33 on Hopper: blocks of 832 tokens for Qwen3.6-27B, three states a request; 0.27 has 784 and two."""
    for version, tokens_each, states in (("0.33.0", 832, 3), ("0.27.1", 784, 2)):
        pages = layer_pages(_model("qwen3.6-27b"), VllmJob(version=version), "bf16", H100)
        kinds = {page.kind: page for _, page in pages}
        assert (kinds["full"].tokens, kinds["state"].states) == (tokens_each, states)


def test_the_longest_request_is_found_where_it_is_asked_for() -> None:
    """--max-model-len auto is what the pool holds: 8 GiB are 65,536 tokens of Llama 3.1 8B."""
    job = VllmJob(max_model_len="auto", kv_cache_memory_bytes=8 * GIB)
    assert deploy(_model("llama-3.1-8b"), job, [H100]).context == 65536


def test_copies_share_requests() -> None:
    """Nine requests on four copies are three on the fullest; each copy runs as many at once as --max-num-seqs says."""
    found = deploy(_model("llama-3-8b"), VllmJob(context=4096, data_parallel=4, max_num_seqs=8))
    assert found.shares[0].needs(4096, 9) == 3 * 4096 * 131072
    assert found.limits["concurrency"].most == 32


def test_requests_beyond_max_num_seqs_wait() -> None:
    """The limit on requests is told with the flag that sets it."""
    found = deploy(_model("llama-3-8b"), VllmJob(max_num_seqs=7))
    assert found.limits["concurrency"].most == 7
    assert "--max-num-seqs" in found.limits["concurrency"].why


@settings(max_examples=25, deadline=None)
@given(
    contexts=st.lists(st.integers(1, 2**17), min_size=1, max_size=6),
    concurrency=st.integers(1, 64),
    name=st.sampled_from(["llama-3.1-8b", "gpt-oss-20b", "deepseek-v2-lite"]),
)
def test_needs_of_arrays_are_those_of_numbers(contexts: list[int], concurrency: int, name: str) -> None:
    """A map of contexts says what single answers say."""
    np = pytest.importorskip("numpy")
    share = deploy(_model(name), VllmJob(max_model_len=4096)).shares[0]
    assert list(share.needs(np.array(contexts), concurrency)) == [share.needs(each, concurrency) for each in contexts]


def test_fewer_devices_than_asked_for_are_refused() -> None:
    """Two GPUs for --tensor-parallel-size 4 is a mistake to tell."""
    with pytest.raises(UsageError, match="takes 4 devices"):
        deploy(_model("llama-3-8b"), VllmJob(tensor_parallel=4), [H100] * 2)


def test_the_command_names_what_differs() -> None:
    """Flags as vLLM spells them, those at their default left out."""
    job = VllmJob(context=8192, enforce_eager=True, enable_prefix_caching=False, kv_cache_dtype="fp8")
    assert command("llama-3-8b", job)[3:] == [
        "--max-model-len", "8192", "--kv-cache-dtype", "fp8", "--enforce-eager", "--no-enable-prefix-caching",
    ]  # fmt: skip
    assert ENGINE.command is command


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"gpu_memory_utilization": 1.5}, "no share"),
        ({"dtype": "fp7"}, "no dtype"),
        ({"kv_cache_dtype": "nvfp4"}, "not modelled"),
        ({"cpu_offload_gb": -1.0}, "--cpu-offload-gb"),
        ({"mamba_ssm_cache_dtype": "fp8"}, "no dtype"),
        ({"tensor_parallel": 0}, "whole number"),
        ({"tensor_parallel": 4, "decode_context_parallel": 3}, "divide"),
        ({"speculative_config": "[" * 5000}, "no JSON object"),
        ({"speculative_config": '{"method": "mlp_speculator"}'}, "not modelled"),
        ({"max_model_len": "1.5K"}, "number of tokens"),
        ({"version": "latest"}, "no version"),
        ({"version": "0.2.7"}, "older"),
    ],
)
def test_flags_that_make_no_sense_are_told(flags: dict[str, Any], words: str) -> None:
    """Every value from outside is checked: the problem, then the fix."""
    with pytest.raises(OomphError, match=words):
        VllmJob(**flags)


def test_a_method_that_needs_a_checkpoint_is_refused() -> None:
    """--quantization awq makes nothing of a checkpoint in 16 bits."""
    with pytest.raises(UnsupportedError, match="needs a checkpoint made so"):
        deploy(_model("llama-3-8b"), VllmJob(quantization="awq"))


@pytest.mark.parametrize("read", [tokens, parse_version])
@settings(max_examples=50)
@given(text=st.text("0123456789.kKmMgGv-+e ", max_size=12))
def test_any_text_is_a_number_or_an_error(read: Callable[[str], Any], text: str) -> None:
    """Neither tokens nor versions break on what somebody typed."""
    with suppress(OomphError):
        assert read(text)
