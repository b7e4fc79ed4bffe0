"""What vLLM's versions do otherwise, each boundary as it stands in the source of the releases on both of its sides."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.answer import subject
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.flags import read_flags
from oomph.engines.vllm import VllmJob
from oomph.engines.vllm.pages import cache_width
from oomph.engines.vllm.profile import profile
from oomph.engines.vllm.serving import steps_at_once
from oomph.errors import OomphError

H100 = find("h100")


@pytest.mark.parametrize(
    ("gpu", "version", "step"),
    [
        ("b200", "0.27.1", (8192, 1024)),
        ("b200", "0.28.0", (16384, 1024)),
        ("dgx-spark", "0.13.0", (2048, 256)),
        ("dgx-spark", "0.25.1", (2048, 256)),
        ("dgx-spark", "0.33.0", (2048, 256)),
        ("a100-80gb", "0.33.0", (2048, 256)),
    ],
)
def test_steps_by_device(gpu: str, version: str, step: tuple[int, int]) -> None:
    """A tier for 160 GiB since 0.28 (arg_utils.py of 0.27.1 to 0.33.0). A GB10 is named among the small ones in 0.33;
    before, logs of it show small steps too (0.13.0: 2048 tokens; 0.25.1: compiled for up to 2048), for NVML does not
    know its memory."""
    assert VllmJob(version=version).batch(find(gpu), 2**17) == step


@pytest.mark.parametrize(
    ("flags", "version", "tokens"),
    [
        (["--no-enable-chunked-prefill"], "0.19.0", 32768),
        (["--enable-chunked-prefill"], "0.19.0", 8192),
        ([], "0.7.3", 32768),
        (["--enable-chunked-prefill"], "0.7.3", 2048),
    ],
)
def test_whole_prompts_make_larger_steps(flags: list[str], version: str, tokens: int) -> None:
    """Without pieces a step has room for the longest request; the first core had them only if asked."""
    job: Any = read_flags(engine("vllm"), flags, VllmJob(version=version)).job
    assert job.batch(H100, 32768)[0] == tokens


@pytest.mark.parametrize(
    "words", [["--task", "embed"], ["--runner", "pooling"], ["--convert", "embed"], ["--disable-custom-all-reduce"]]
)
def test_flags_that_move_memory_are_no_longer_passed_over(words: list[str]) -> None:
    """Pooling samples nothing and keeps nothing; without its own all-reduce vLLM has fewer buffers."""
    with pytest.raises(OomphError):
        read_flags(engine("vllm"), words)
    assert read_flags(engine("vllm"), ["--task", "generate"]).passed_over == ()


@pytest.mark.parametrize(
    ("version", "flags", "steps"),
    [
        ("0.25.1", {}, 1),
        ("0.26.0", {}, 2),
        ("0.26.0", {"async_scheduling": False}, 1),
        ("0.26.0", {"pipeline_parallel": 4}, 5),
        ("0.33.0", {"pipeline_parallel": 4, "async_scheduling": False}, 4),
    ],
)
def test_steps_that_may_be_on_their_way(version: str, flags: dict[str, Any], steps: int) -> None:
    """Windows keep the tokens of all of them since 0.26; the second runner has one more than stages."""
    assert steps_at_once(subject("llama-3.1-8b"), VllmJob(version=version, **flags), "bf16") == steps


def test_the_second_runner_draws_no_samples_in_its_trial() -> None:
    """Dense models since 0.25, mixtures since 0.29: no copies of the logits, until 0.33 samples again."""
    for name, version, copies in (
        ("llama-3.1-8b", (0, 22), True),
        ("llama-3.1-8b", (0, 25), False),
        ("mixtral-8x7b-v0.1", (0, 25), True),
        ("mixtral-8x7b-v0.1", (0, 29), False),
        ("llama-3.1-8b", (0, 33), True),
    ):
        found = profile(
            subject(name), tokens=2048, seqs=1024, dtype="bf16", tensor_parallel=8, pipeline_parallel=1,
            version=version, format=None, enforce_eager=True, device=H100, context=8192,
        )  # fmt: skip
        sampled = dict(found.instants)["sampling"]
        words = 1024 * subject(name).model.vocab_size
        assert (sampled > words * (2 + 4)) is copies, (name, version)


@pytest.mark.parametrize(("gpu", "flags"), [("h100", {"mxfp4": "marlin"}), ("rtx-5090", {}), ("a100-80gb", {})])
def test_marlin_keeps_its_workspace_wherever_it_runs(gpu: str, flags: dict[str, Any]) -> None:
    """gpt-oss where weights are laid out for Marlin: asked for, and on cards that Triton's kernels leave to it."""
    found = profile(
        subject("gpt-oss-20b"), tokens=8192, seqs=256, dtype="bf16", tensor_parallel=1, pipeline_parallel=1,
        version=(0, 19), format=None, enforce_eager=False, device=find(gpu), context=8192, **flags,
    )  # fmt: skip
    assert any(name == "workspace of the experts" for name, _ in found.alive)


@pytest.mark.parametrize(
    ("quantised", "version", "width"),
    [
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, "0.13.0", 2),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, "0.14.0", 1),
        ({"quant_method": "modelopt", "kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": False}}, "", 1),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "NVFP4"}, "0.19.0", 2),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "0.19.0", 1),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": None}, "0.19.0", 2),
        ({"quant_method": "modelopt", "kv_cache_scheme": {"num_bits": [], "type": "float"}}, "", 2),
    ],
)
def test_a_checkpoint_says_the_width_of_its_cache(quantised: dict[str, Any], version: str, width: int) -> None:
    """As vLLM resolves --kv-cache-dtype auto; four bits are refused where it takes them."""
    assert cache_width({"quantization_config": quantised}, VllmJob(version=version), "bf16") == width
    with pytest.raises(OomphError, match="NVFP4"):
        cache_width(
            {"quantization_config": {"quant_method": "modelopt", "kv_cache_quant_algo": "NVFP4"}}, VllmJob(), "bf16"
        )


def test_a_version_that_was_not_read_is_said() -> None:
    """It runs by the rules of the newest that was; one that was read is named alone."""
    for version, said in (("0.99", "0.99.0, taken to do as 0.33.0, the newest"), ("0.19.0", "vLLM 0.19.0;")):
        told = "; ".join(engine("vllm").deploy(subject("qwen3-0.6b"), VllmJob(version=version)).assumptions)
        assert said in told
