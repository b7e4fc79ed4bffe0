"""What is advised where a model does not fit: formats that the engine has, and what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oomph.answer import subject
from oomph.devices import find
from oomph.engines import ENGINES, engine
from oomph.engines.changes import changes
from oomph.engines.serving import serve
from oomph.errors import UnsupportedError

TORCH = ("sglang", "trtllm", "tgi", "lmdeploy")
ELSEWHERE = ("q4_k_m", "mlx-4bit", "exl2-4.0bpw", "exl3-4bpw")


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_takes_the_formats_it_is_advised(name: str) -> None:
    """Every format of an engine's own list is one it deploys, and they get smaller."""
    program, found = engine(name), subject("llama-3.1-8b")
    job = replace(program.job(), context=256)
    sizes = []
    for each in program.formats:
        deployed = program.deploy(found, replace(job, format=each), [])
        sizes.append(sum(i.n_bytes for share in deployed.shares for i in share.items if i.group == "weights"))
    assert len(sizes) > 1
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("fmt", ELSEWHERE)
def test_a_format_of_another_engine_is_refused_by_name(name: str, fmt: str) -> None:
    """A GGUF file cut for two GPUs was a KeyError."""
    program = engine(name)
    with pytest.raises(UnsupportedError, match=f"{fmt} is how"):
        program.deploy(subject("llama-3.1-8b"), replace(program.job(), context=256, format=fmt), [])


@pytest.mark.parametrize("name", TORCH)
def test_what_is_too_large_already_says_how_much_is_missing(name: str) -> None:
    """Weights beyond the device leave less than nothing, and a smaller format gains what it saves."""
    program, found, devices = engine(name), subject("qwen3-32b"), [find("rtx-4090")]
    job = replace(program.job(), context=4096)
    verdict = serve(found, program, job, devices).verdict
    assert verdict is not None
    assert "GiB more than there is" in verdict.sentence
    assert verdict.margin_bytes < -(30 * 2**30)
    smaller = {change.title: change.saved_bytes for change in changes(found, program, job, devices)}
    assert max(saved for title, saved in smaller.items() if title.startswith("weights in")) > 20 * 2**30


def test_as_few_experts_as_need_be_leave_the_gpu() -> None:
    """A mixture on a card too small: experts of so many layers go to the host that it fits; of one less it does not."""
    program, found, devices = engine("llama.cpp"), subject("gpt-oss-120b"), [find("rtx-4090")]
    job = replace(program.job(), context=32768)
    (change,) = (each for each in changes(found, program, job, devices) if each.title.startswith("experts of"))
    option, number = change.words
    assert (option, change.status) == ("-ncmoe", "fits")
    after = [serve(found, program, replace(job, n_cpu_moe=int(number) - less), devices).verdict for less in (0, 1)]
    assert [verdict.fits for verdict in after if verdict] == [True, False]


@pytest.mark.parametrize(
    ("name", "device", "words"),
    [
        ("ollama", "rtx-4090", "OLLAMA_NUM_PARALLEL=40"),
        ("mlx", "m3-ultra-512gb", "--decode-concurrency 40"),
        ("llama.cpp", "h200", "-np 40"),
        ("exllamav2", "h200", "--max-batch-size 40"),
    ],
)
def test_requests_that_are_not_let_in_are(name: str, device: str, words: str) -> None:
    """More GPUs and smaller weights were advised, which let no request in."""
    program, found = engine(name), subject("llama-3.2-1b")
    job = replace(program.job(), context=256, concurrency=40)
    if name == "llama.cpp":
        job = replace(job, parallel=4)
    verdict = serve(found, program, job, [find(device)]).verdict
    assert verdict is not None
    assert not verdict.fits
    advice = changes(found, program, job, [find(device)])
    assert " ".join(advice[0].words) == words
    assert all(change.status != "too_big" for change in advice)


@pytest.mark.parametrize(
    ("name", "device", "there", "absent"),
    [
        ("vllm", "v100-32gb", "2 GPUs", "weights in fp8"),
        ("vllm", "t4", "weights in awq", "weights in nf4"),
        ("trtllm", "a100-40gb", "2 GPUs", "weights in modelopt-fp8"),
    ],
)
def test_a_format_without_kernels_is_not_advised(name: str, device: str, there: str, absent: str) -> None:
    """A V100 has no kernels for fp8 weights, an A100 none for those of TensorRT-LLM."""
    program, found = engine(name), subject("phi-4" if name == "vllm" else "qwen3-32b")
    titles = [change.title for change in changes(found, program, replace(program.job(), context=4096), [find(device)])]
    assert there in titles
    assert absent not in titles
