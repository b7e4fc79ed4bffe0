"""Every flag of `vllm serve` is one of a job, moves no memory, or is refused with what it moves."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomph.answer import subject
from oomph.devices import find
from oomph.engines.base import Deployment
from oomph.engines.command_line import read_text
from oomph.engines.flags import spellings
from oomph.engines.vllm import ENGINE, VllmJob, deploy
from oomph.engines.vllm.flags import HARMLESS, REFUSED
from oomph.errors import OomphError, UnsupportedError, UsageError
from oomph.units import GIB

NAMES = [
    line
    for line in (Path(__file__).parent / "flags_0_33_0.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
LLAMA = subject("llama-3.1-8b-instruct")
QWEN = subject("qwen2.5-vl-7b-instruct")


def _deployed(**flags: Any) -> Deployment:
    return deploy(LLAMA, VllmJob(max_model_len=4096, version="0.33.0", **flags), [find("h100-sxm")])


def _lines(deployed: Deployment) -> dict[str, float]:
    return {line.name: line.value for line in deployed.printed}


def _graphs(deployed: Deployment) -> int:
    return sum(item.n_bytes for item in deployed.shares[0].items if item.name == "CUDA graphs")


def test_every_flag_of_the_newest_version_is_known() -> None:
    """More than 300 names, each in one of three places."""
    harmless = {name.rstrip("=+") for name in HARMLESS}
    fields = set(spellings(ENGINE.job))
    assert len(NAMES) > 300
    assert [name for name in NAMES if (name in harmless) + (name in REFUSED) + (name in fields) != 1] == []
    assert all(REFUSED.values())


def test_weights_with_the_host() -> None:
    """Whole tensors go, layer by layer, until there are as many bytes: q, k and v, o, gate and up make 0.3 GiB."""
    whole = _lines(_deployed())["weights_gib"]
    assert _lines(_deployed(cpu_offload_gb=0.1))["weights_gib"] == pytest.approx(whole - 304 / 1024, abs=0.01)
    most = _lines(_deployed(cpu_offload_gb=1000))["weights_gib"]
    assert most == pytest.approx(2 * 128256 * 4096 * 2 / GIB, abs=0.04)  # words and head stay
    assert _lines(_deployed(cpu_offload_gb=4))["kv_cache_gib"] > _lines(_deployed())["kv_cache_gib"] + 4


@pytest.mark.parametrize(
    ("model", "flags"),
    [("qwen3-30b-a3b", {}), ("qwen3-8b", {"quantization": "fp8"}), ("qwen3-8b", {"version": "0.7.3"})],
)
def test_weights_that_are_laid_out_anew_do_not_go_to_the_host(model: str, flags: dict[str, Any]) -> None:
    """What a kernel lays out after loading is on the device again; the first core copies layers to it."""
    with pytest.raises(UnsupportedError, match="--cpu-offload-gb"):
        deploy(subject(model), VllmJob(cpu_offload_gb=1, **flags))


def test_graphs_are_those_that_are_asked_for() -> None:
    """No graphs take nothing, fewer sizes less, the largest size bounds the usual ones."""
    usual = _graphs(_deployed())
    assert _graphs(_deployed(compilation_config='{"cudagraph_mode": "none"}')) == 0
    few = _graphs(_deployed(compilation_config='{"cudagraph_capture_sizes": [1, 2, 4, 8]}'))
    assert 0 < few == _graphs(_deployed(cudagraph_capture_sizes=(8, 4, 2, 1))) < usual
    assert few == _graphs(_deployed(max_cudagraph_capture_size=8)) < usual
    assert _graphs(_deployed(compilation_config='{"mode": 3, "cache_dir": "/x"}')) == usual


def test_without_compilation_no_kernel_is_timed() -> None:
    """Mode 0 is the eager one of --enforce-eager, but for graphs."""
    eager = _lines(_deployed(enforce_eager=True))["activation_peak_gib"]
    assert _lines(_deployed(compilation_config='{"mode": 0}'))["activation_peak_gib"] == eager


def test_no_images_no_tower() -> None:
    """Where neither images nor videos are allowed the tower is not loaded, as with --language-model-only."""
    none = VllmJob(limit_mm_per_prompt='{"image": 0, "video": 0}')
    only = VllmJob(language_model_only=True)
    assert deploy(QWEN, none).printed[0] == deploy(QWEN, only).printed[0] != deploy(QWEN, VllmJob()).printed[0]


def test_images_of_a_prompt_as_older_versions_write_them() -> None:
    """image=2,video=0 before there was JSON, and the flag of drafts that went into JSON is named."""
    text = "docker run --gpus all vllm/vllm-openai:v0.8.5 --model x/y --limit-mm-per-prompt image=2,video=0"
    job = read_text(text).job
    assert isinstance(job, VllmJob)
    assert (job.images, VllmJob(limit_mm_per_prompt="image=0,video=0").text_only) == (2, True)
    with pytest.raises(UnsupportedError, match="say it in --speculative-config"):
        read_text("vllm serve x/y --speculative-model x/z --num-speculative-tokens 5")


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        ({"compilation_config": '{"pass_config": {"enable_sp": true}}'}, "pass_config is not modelled"),
        ({"compilation_config": '{"cudagraph_mode": "SOME"}'}, "cudagraph_mode SOME"),
        ({"compilation_config": "[]"}, "no JSON object"),
        ({"compilation_config": '{"cudagraph_capture_sizes": []}'}, "no list of sizes"),
        ({"compilation_config": '{"cudagraph_capture_sizes": [0]}'}, "whole number"),
        ({"limit_mm_per_prompt": '{"image": 0, "video": 1}'}, "videos alone"),
        ({"limit_mm_per_prompt": '{"image": {"count": 1, "width": 512}}'}, "given size"),
        ({"attention_backend": "FLASHINFER"}, "blocks and workspaces"),
        ({"cpu_offload_gb": -1.0}, "no size"),
        ({"cpu_offload_gb": float("nan")}, "no size"),
    ],
)
def test_what_is_refused(flags: dict[str, Any], what: str) -> None:
    """By its name, with what there is instead."""
    with pytest.raises(OomphError, match=what):
        VllmJob(**flags)


@given(st.text(max_size=40))
def test_no_text_is_a_traceback(text: str) -> None:
    """Whatever stands behind a flag that takes JSON is read or refused."""
    for name in ("compilation_config", "limit_mm_per_prompt", "speculative_config", "attention_backend", "allocator"):
        with suppress(UsageError, UnsupportedError):
            VllmJob(**{name: text})  # type: ignore[arg-type]


def test_they_are_read_from_a_command_line() -> None:
    """As people paste it: JSON in quotes, sizes one behind the other, the environment before."""
    found = read_text(
        "VLLM_ATTENTION_BACKEND=TRITON_ATTN PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True vllm serve x/y "
        '--cudagraph-capture-sizes 1 2 4 --limit-mm-per-prompt \'{"image": 0, "video": 0}\' -n 2 --cpu-offload-gb 2'
    )
    job = found.job
    assert isinstance(job, VllmJob)
    assert (job.attention_backend, job.cudagraph_capture_sizes, job.text_only) == ("TRITON_ATTN", (1, 2, 4), True)
    assert (job.cpu_offload_gb, job.allocator) == (2, "expandable_segments:True")
    assert "--cudagraph-capture-sizes 1 2 4 " in " ".join(ENGINE.command("x/y", job))


def test_keys_of_json_are_written_as_vllm_names_them() -> None:
    """A flag with a dot is read with hyphens, the command has the key's own underscores."""
    found = read_text("vllm serve x/y --compilation-config.cudagraph_mode NONE")
    assert isinstance(found.job, VllmJob)
    assert '{"cudagraph_mode": "NONE"}' in ENGINE.command("x/y", found.job)
