"""What vLLM says it loaded: "Model loading took", as logs of vLLM 0.10 to 0.22 printed it."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomph.answer import Subject, subject
from oomph.devices import Device, find
from oomph.engines.vllm import VllmJob, deploy
from oomph.engines.vllm.loading import stages
from oomph.engines.vllm.serving import activation_dtype, weight_format
from oomph.errors import UnsupportedError, UsageError
from oomph.units import GIB

H100 = find("h100-sxm")


@cache
def _model(name: str) -> Subject:
    return subject(name)


def _loaded(name: str, job: VllmJob, device: Device | None = None) -> list[int]:
    """Return what each stage's device has allocated after loading."""
    found = _model(name)
    dtype = activation_dtype(found, job)
    fmt = weight_format(found, job, dtype)
    return [each.loaded.allocated_bytes for each in stages(found, job, fmt, device, 8192)]


def _printed(job: VllmJob) -> list[tuple[str, float]]:
    """Return what a job of Phi-4 on an H100 prints."""
    return [(line.name, line.value) for line in deploy(_model("phi-4"), job, [H100]).printed]


LOGS = [
    # model, job, device, what the log says, by how much that is rounded
    ("llama-3-8b", {"tensor_parallel": 4, "version": "0.13.0"}, None, 3.7418, 1e-4),
    ("llama-3-8b", {"version": "0.11.2"}, None, 14.9596, 1e-4),
    ("llama-3.1-8b-instruct", {}, None, 14.99, 0.01),
    ("llama-3.1-8b-instruct", {"dtype": "float32"}, None, 29.98, 0.01),
    ("llama-3.1-8b-instruct", {"quantization": "fp8"}, None, 8.49, 0.01),
    ("llama-3.1-8b-instruct", {"pipeline_parallel": 4}, None, 4.26, 0.01),
    ("qwen3-4b", {"version": "0.10.2"}, None, 7.5552, 2e-4),
    ("qwen3-30b-a3b-instruct-2507", {"version": "0.10.2"}, None, 56.9342, 3e-4),
    ("qwen3-30b-a3b", {"tensor_parallel": 2, "version": "0.12.0"}, None, 28.4571, 2e-4),
    ("qwen2.5-7b-instruct", {}, None, 14.25, 0.01),
    ("qwen2.5-72b-instruct", {"tensor_parallel": 2}, None, 67.80, 0.01),
    ("qwen2.5-72b-instruct", {"tensor_parallel": 4}, None, 33.98, 0.01),
    ("qwen2.5-coder-32b-instruct-awq", {"version": "0.13.0", "dtype": "float16"}, None, 18.1425, 5e-3),
    ("deepseek-v2-lite", {}, None, 29.43, 0.01),
    ("deepseek-v2-lite", {"tensor_parallel": 4}, None, 7.51, 0.01),
    ("mistral-small-3.1-24b-instruct-2503", {"tensor_parallel": 4}, None, 11.86, 0.01),
    ("gpt-oss-20b", {"version": "0.13.0"}, None, 13.7193, 2e-3),
    ("gpt-oss-20b", {}, H100, 13.64, 0.01),
    ("gpt-oss-120b", {"mxfp4_use_marlin": True}, H100, 65.9651, 3e-3),
]


@pytest.mark.parametrize(("name", "flags", "device", "logged", "rounding"), LOGS)
def test_loading_takes_what_the_log_says(
    name: str, flags: dict[str, object], device: Device | None, logged: float, rounding: float
) -> None:
    """Weights cut for the device, tables of angles, and torch's blocks make the printed number."""
    job = VllmJob(**{"version": "0.19.0", **flags})  # type: ignore[arg-type]
    assert _loaded(name, job, device)[0] / GIB == pytest.approx(logged, abs=rounding)


@pytest.mark.parametrize("name", ["llama-3.1-8b-instruct", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt-oss-20b"])
def test_more_devices_hold_less_each_and_more_together(name: str) -> None:
    """A device of more never holds more; all of them hold at least the model."""
    alone = _loaded(name, VllmJob())[0]
    before = alone
    for tp in (2, 4, 8):
        each = _loaded(name, VllmJob(tensor_parallel=tp))[0]
        assert each <= before
        assert each * tp >= alone * 0.999  # torch's rounding of blocks may be less
        before = each


@settings(max_examples=10, deadline=None)
@given(pp=st.integers(2, 16))
def test_stages_hold_the_model_together(pp: int) -> None:
    """What the stages of a pipeline hold is the model, with a table of angles on each."""
    table = 131072 * 128 * 2
    parts = _loaded("llama-3.1-8b-instruct", VllmJob(pipeline_parallel=pp))
    assert sum(parts) - pp * table == pytest.approx(_loaded("llama-3.1-8b-instruct", VllmJob())[0] - table, rel=1e-3)


def test_copies_share_their_experts() -> None:
    """Eight devices hold an eighth of DeepSeek-V2-Lite's experts each, cut or whole, by tensors or by copies."""
    experts = 26 * 64 * 3 * 1408 * 2048 * 2
    by_tensor = {"tensor_parallel": 8, "enable_expert_parallel": True}
    by_copy = {"data_parallel": 8}, {"data_parallel": 8, "enable_expert_parallel": True}
    for flags in ({"tensor_parallel": 8}, by_tensor, *by_copy):
        found = _model("deepseek-v2-lite")
        job = VllmJob(**flags)  # type: ignore[arg-type]
        share = deploy(found, job).shares[0]
        held = sum(item.n_bytes for item in share.items if ".experts." in item.name)
        assert (held, share.count) == (experts // 8, 8)


def test_adapters_have_slots_beside_every_map() -> None:
    """Qwen3-8B on two T4 takes 7.64 GiB, and 7.70 with slots for one adapter of rank 16 (vLLM 0.22.1)."""
    job = VllmJob(version="0.22.1", tensor_parallel=2, dtype="float16")
    assert _loaded("qwen3-8b", job)[0] / GIB == pytest.approx(7.64, abs=0.005)
    with_slots = VllmJob(version="0.22.1", tensor_parallel=2, dtype="float16", enable_lora=True)
    assert _loaded("qwen3-8b", with_slots)[0] / GIB == pytest.approx(7.705, abs=0.01)


UNSLOTH = "expandable_segments:True,roundup_power2_divisions:[32:256,64:128,256:64,>:32]"  # unsloth_zoo/__init__.py
NOTEBOOKS = [
    # logs in unslothai/notebooks bdda2efc: model, format, version, rank, what the log says; its wrapper of kernels,
    # which is not modelled, takes 0.1 to 0.2 MiB
    ("llama-3.2-3b-instruct", None, "0.8.1", 64, 6.2472),
    ("llama-3.2-3b-instruct", None, "0.8.5.post1", 64, 6.2473),
    ("deepseek-r1-0528-qwen3-8b", "nf4-dq", "0.8.5.post1", 32, 5.9071),
    ("qwen3-4b-base", None, "0.8.5.post1", 32, 7.6334),
]


@pytest.mark.parametrize(("name", "fmt", "version", "rank", "logged"), NOTEBOOKS)
def test_slots_and_rows_for_words_that_adapters_bring(
    name: str, fmt: str | None, version: str, rank: int, logged: float
) -> None:
    """Llama's classes make slots for words too, and rows for those an adapter brings; Qwen3's did not yet."""
    flags = {"dtype": "float16", "enable_lora": True, "max_lora_rank": rank, "allocator": UNSLOTH}
    job = VllmJob(version=version, format=fmt, **flags)  # type: ignore[arg-type]
    assert _loaded(name, job)[0] / GIB == pytest.approx(logged, abs=3e-4)


def test_slots_came_after_the_line_before_0_8() -> None:
    """Phi-4 in NF4 takes 8.4920 GB in the line of vLLM 0.7.1, whatever the rank: slots are made behind it."""
    flags = {"version": "0.7.1", "format": "nf4-dq", "dtype": "float16", "enable_lora": True, "allocator": UNSLOTH}
    jobs = [VllmJob(**flags, max_lora_rank=rank) for rank in (16, 32)]  # type: ignore[arg-type]
    assert [deploy(_model("phi-4"), job).printed[0].value for job in jobs] == pytest.approx([8.4920] * 2, abs=3e-4)
    smaller, larger = (_loaded("phi-4", job)[0] for job in jobs)
    assert larger - smaller > 100 * 2**20  # 16 ranks of 40 layers in 16 bits
    pools = [dict(_printed(job))["kv_cache_gib"] for job in jobs]
    assert pools[0] == pools[1]  # vLLM did not know of them when it made its pool


def test_settings_of_the_allocator_are_checked() -> None:
    """PYTORCH_CUDA_ALLOC_CONF is read as torch reads it."""
    with pytest.raises(UsageError, match="expandable"):
        VllmJob(allocator="expandable:True")


def test_heads_that_cannot_be_shared_are_refused() -> None:
    """Qwen2.5-7B has 28 heads, which 8 devices cannot share: vLLM refuses, and so is it here."""
    with pytest.raises(UnsupportedError, match="among 8 devices"):
        deploy(_model("qwen2.5-7b-instruct"), VllmJob(tensor_parallel=8))


def test_a_repository_that_padded_its_maps_can_be_cut() -> None:
    """Qwen pads the MLPs of its quantised 72B to 29,696 (QwenLM/Qwen3 issue 578): 29,568 is 231 groups of 128."""
    job = VllmJob(tensor_parallel=2, context=8192)
    deployed = deploy(_model("Qwen/Qwen2.5-72B-Instruct-AWQ"), job, [find("l40s")] * 2)
    assert deployed.shares[0].count == job.tensor_parallel
    with pytest.raises(UnsupportedError, match="no multiple of 128"):
        deploy(_model("qwen2.5-72b-instruct"), VllmJob(tensor_parallel=2, format="awq", context=8192), [])


def _slots_of_experts(name: str, **flags: object) -> int:
    """Return the bytes of slots for experts on the first device, for one adapter of rank 16."""
    job = VllmJob(**flags, enable_lora=True)  # type: ignore[arg-type]
    items = deploy(_model(name), job).shares[0].items
    return sum(item.n_bytes for item in items if ".experts." in item.name and ".lora_" in item.name)


def test_adapters_have_slots_for_experts() -> None:
    """Each expert has a pair for each map from 0.12 on; gpt-oss and Qwen3.5 one A for gate and up; before, none had."""
    for tp in (1, 2):
        held = 48 * 128 * 16 * 2 * (2 * (2048 + 768 // tp) + 768 // tp + 2048)
        assert _slots_of_experts("qwen3-30b-a3b", version="0.12.0", tensor_parallel=tp) == held
    assert _slots_of_experts("qwen3-30b-a3b", version="0.10.2") == 0
    assert _slots_of_experts("qwen3.5-35b-a3b", version="0.19.0") == 40 * 256 * 16 * 2 * (3 * 512 + 2 * 2048)
    assert _slots_of_experts("gpt-oss-20b", version="0.19.0") == 24 * 32 * 16 * 2 * 5 * 2880
    with pytest.raises(UnsupportedError, match="adapters of experts"):
        deploy(_model("qwen3-30b-a3b"), VllmJob(version="0.11.1", enable_lora=True))
