"""A whole start-up log of SGLang, and what is true of every model it serves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.answer import subject
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.command_line import read_text
from oomph.engines.serving import serve
from oomph.engines.sglang.job import SglangJob, parse_version
from oomph.engines.sglang.serve import ASIDE
from oomph.errors import UnsupportedError, UsageError
from tests.engines.sglang.test_fraction import B300

SGLANG = engine("sglang")


def _printed(name: str, job: SglangJob, devices: list[Any]) -> dict[str, float]:
    return {each.name: each.value for each in serve(subject(name), SGLANG, job, devices).printed}


def test_a_start_up_log_line_by_line() -> None:
    """Qwen3-8B on a GB300: avail 275.75, mem usage 15.28, #tokens 1,707,904, K + V 234.56, avail 25.28 GB.

    Source: a log in a public repository (stored code index, file id 54815375998); what was free before is given.
    """
    found = _printed("qwen3-8b", SglangJob(), [B300])
    assert found["mem_before_load_gib"] == pytest.approx(275.75, abs=0.01)
    assert found["weights_gib"] == pytest.approx(15.28, abs=0.01)
    assert found["kv_tokens"] == pytest.approx(1707904, rel=0.0005)
    assert found["kv_cache_gib"] == pytest.approx(234.56, abs=0.1)
    assert found["avail_after_pool_gib"] == pytest.approx(25.28, abs=0.01)


JOBS = {
    "qwen3-8b": SglangJob(),
    "gpt-oss-20b": SglangJob(page_size=64),
    "deepseek-v3": SglangJob(tensor_parallel=8, speculative_algorithm="NEXTN"),
    "llama-3.3-70b-instruct": SglangJob(tensor_parallel=2, pipeline_parallel=2, version="0.5.9"),
}


@pytest.mark.parametrize("name", JOBS)
def test_a_device_holds_no_more_than_it_has(name: str) -> None:
    """All items of a device add up to its memory, and what is set aside is among them."""
    job = JOBS[name]
    found = SGLANG.deploy(subject(name), job, [find("h200")] * job.ranks)
    for share in found.shares:
        assert sum(item.n_bytes for item in share.items) + (share.room_bytes or 0) == share.capacity_bytes
        assert next(item for item in share.items if item.name == ASIDE).n_bytes > 0
        assert share.room_bytes is not None
        assert share.room_bytes > 0
    assert sum(share.count for share in found.shares) == job.ranks


@given(name=st.sampled_from(list(JOBS)), context=st.integers(1, 2**17), concurrency=st.integers(1, 3000))
@settings(max_examples=40, deadline=None)
def test_a_map_is_what_single_answers_are(name: str, context: int, concurrency: int) -> None:
    """Numbers and arrays of them need the same, items add up to it, and more never needs less."""
    np = pytest.importorskip("numpy")
    job = JOBS[name]
    for share in SGLANG.deploy(subject(name), job, [find("h200")] * job.ranks).shares:
        one = int(share.needs(context, concurrency))
        grid = share.needs(np.array([context, context + 1]), np.array([concurrency, concurrency]))
        assert [int(each) for each in grid] == [one, int(share.needs(context + 1, concurrency))]
        assert sum(item.n_bytes for item in share.held(context, concurrency)) == one
        assert int(grid[1]) >= one
        assert int(share.needs(context, concurrency + 1)) >= one


def test_the_pool_is_what_fits() -> None:
    """As many requests as the tokens are enough for, and not one more."""
    found = SGLANG.deploy(subject("qwen3-8b"), SglangJob(max_running_requests=4000), [find("h200")])
    tokens = int(next(each.value for each in found.printed if each.name == "kv_tokens"))
    share = found.shares[0]
    assert share.room_bytes is not None
    assert int(share.needs(1000, tokens // 1000)) <= share.room_bytes < int(share.needs(1000, tokens // 1000 + 1))
    assert found.limits["concurrency"].most == 4000


def test_too_little_set_aside_is_said() -> None:
    """A step whose widest map alone makes more than is left to activations; and one that has room."""
    for fraction, warned in ((0.5, 0), (0.999, 1)):
        job = SglangJob(mem_fraction_static=fraction, chunked_prefill_size=16384)
        found = SGLANG.deploy(subject("qwen3-8b"), job, [find("h200")])
        # 16,384 tokens in bf16: 4,096 numbers in, as many beside, 12,288 out
        assert f"takes {16384 * (2 * 4096 + 12288) * 2 / 2**30:.2f} GiB at least" in found.assumptions[-1]
        assert len(found.warnings) == warned
        assert all("lower --mem-fraction-static" in each for each in found.warnings)


def test_without_a_device_it_says_what_is_taken() -> None:
    """Weights and requests, no verdict."""
    found = serve(subject("qwen3-8b"), SGLANG, SglangJob(context=1024, concurrency=2), [])
    assert found.verdict is None
    assert found.groups["kv_cache"] == 2 * 1024 * 147456


def test_copies_of_attention_share_requests_out() -> None:
    """16 requests on 8 copies are two for each; weights of attention are whole on each device."""
    alone = SGLANG.deploy(subject("deepseek-v3"), SglangJob(tensor_parallel=8), [find("h200")] * 8)
    job = SglangJob(tensor_parallel=8, data_parallel=8, dp_attention=True)
    copied = SGLANG.deploy(subject("deepseek-v3"), job, [find("h200")] * 8)
    assert int(copied.shares[0].needs(4096, 16)) == int(alone.shares[0].needs(4096, 2))
    assert copied.shares[0].items[0].n_bytes > alone.shares[0].items[0].n_bytes


def test_flags_are_read_and_written() -> None:
    """A pasted command is a job, and a job is that command."""
    line = (
        "python3 -m sglang.launch_server --model-path org/m --tp 8 --dp 8 --enable-dp-attention --host 0.0.0.0"
        " --mem-fraction-static 0.85 --chunked-prefill-size -1 --trust-remote-code --kv-cache-dtype fp8_e4m3"
    )
    found = read_text(line)
    job = SglangJob(
        tensor_parallel=8, data_parallel=8, dp_attention=True, mem_fraction_static=0.85, chunked_prefill_size=-1,
        kv_cache_dtype="fp8_e4m3",
    )  # fmt: skip
    assert (found.engine.name, found.model, found.job) == ("sglang", "org/m", job)
    assert read_text(" ".join(SGLANG.command("org/m", job))).job == job


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ("--cpu-offload-gb 4", "moves weights to the host"),
        ("--kv-cache-dtype nvfp4", "is not modelled"),
        ("--speculative-algorithm EAGLE3", "its draft is another model"),
        ("--enable-lora", "keeps adapters"),
    ],
)
def test_what_moves_memory_and_is_not_modelled(flags: str, why: str) -> None:
    """Refused by name."""
    with pytest.raises(UnsupportedError, match=why):
        read_text(f"sglang serve --model-path m {flags}")


@pytest.mark.parametrize(
    "wrong",
    [
        {"mem_fraction_static": 1.5},
        {"page_size": 0},
        {"tensor_parallel": 4, "expert_parallel": 3},
        {"tensor_parallel": 4, "data_parallel": 3, "dp_attention": True},
        {"version": "newest"},
        {"max_total_tokens": 2**40},
    ],
)
def test_values_that_sglang_does_not_take(wrong: dict[str, Any]) -> None:
    """An error with a fix."""
    with pytest.raises(UsageError):
        SglangJob(**wrong)


def test_versions() -> None:
    """Numbers, with whatever follows them; old ones are refused."""
    assert parse_version("v0.5.10rc0") == (0, 5, 10)
    with pytest.raises(UnsupportedError):
        parse_version("0.3.6")


def test_devices_are_as_many_as_ranks() -> None:
    """A number that does not match is named."""
    with pytest.raises(UsageError, match="ask for 2 devices"):
        SGLANG.deploy(subject("qwen3-8b"), SglangJob(tensor_parallel=2), [find("h100")])


def test_a_model_without_prediction_layers_has_no_draft() -> None:
    """Said, not counted as nothing."""
    with pytest.raises(UsageError, match="no prediction layers"):
        SGLANG.deploy(subject("qwen3-8b"), SglangJob(speculative_algorithm="NEXTN"), [find("h100")])
