"""Ollama and LM Studio: which llama.cpp they start, by their own rules.

Goldens: figures that Ollama servers logged (the addresses stand beside them), and the cases of Ollama's own tests
(fb307609 server/sched_test.go, TestAutomaticGenerationBatch).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oomph.answer import subject
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.command_line import read_text
from oomph.engines.lmstudio import LmStudioJob
from oomph.engines.ollama import OllamaJob, automatic_batch, modelfile
from oomph.engines.serving import serve
from oomph.errors import OomphError, UnsupportedError, UsageError
from oomph.units import GIB, MIB

GPU = find("rtx-4090")
JOB = OllamaJob(context=4096, format="q4_k_m")
# github.com/bercaakbayir/MacCare ollama.log (0.21.0) and umbc-research/Ticket-LLM (0.13.5), in MiB.
LOGGED = [
    ("llama-3.2-3b", 4096, {"model_gpu_mib": 1918.35, "model_host_mib": 308.23, "kv_mib": 448.0}),
    ("llama-3.1-70b", 8192, {"model_gpu_mib": 39979.48, "model_host_mib": 563.62, "kv_mib": 2560.0}),
    ("llama-3.1-70b", 4096, {"model_gpu_mib": 39979.48, "kv_mib_k": 640.0, "kv_mib_v": 640.0}),
]
# Context of all slots, forecast and free memory in MiB, flash attention, batch.
BATCHES = [
    (4096, 0, 0, "auto", 512), (32768, 0, 0, "auto", 1024), (131072, 8192, 14336, "auto", 2048),
    (131072, 9216, 14336, "auto", 1024), (131072, 8192, 11264, "auto", 1024), (32768, 8500, 11264, "auto", 512),
    (131072, 8192, 14336, "off", 512), (131072, 3072, 6144, "off", 256),
]  # fmt: skip


def _ledger(job: Any, name: str = "llama-3.1-8b", gpu: Any = GPU, program: str = "ollama") -> Any:
    return serve(subject(name), engine(program), job, [gpu])


@pytest.mark.parametrize(("name", "context", "logged"), LOGGED)
def test_the_figures_are_those_of_real_logs(name: str, context: int, logged: dict) -> None:
    """Weights and cache of q4_k_m files, to the two decimals that are printed."""
    printed = {each.name: round(each.value, 2) for each in _ledger(replace(JOB, context=context), name).printed}
    assert {key: printed[key] for key in logged} == logged


@pytest.mark.parametrize(("context", "forecast", "free", "flash", "batch"), BATCHES)
def test_the_batch_is_the_one_of_ollamas_own_tests(
    context: int, forecast: int, free: int, flash: str, batch: int
) -> None:
    """More tokens at a time for longer contexts, fewer where the forecast leaves no room."""
    devices = [replace(GPU, program_bytes=free * MIB)] if free else []
    assert automatic_batch(context, forecast * MIB, flash, devices) == batch


@pytest.mark.parametrize(
    ("gib", "context"), [(8, 4096), (22.9, 4096), (23, 32768), (46, 32768), (47, 131072), (80, 131072)]
)
def test_the_context_goes_by_the_memory_of_the_gpus(gib: float, context: int) -> None:
    """4,096, 32,768 or 262,144 tokens, never more than the model was made for, and it is said."""
    found = _ledger(replace(JOB, context=None), gpu=replace(GPU, program_bytes=int(gib * GIB)))
    assert found.job["context"] == context
    assert any(f"{context:,} tokens" in each for each in found.assumptions)


def test_slots_lie_side_by_side() -> None:
    """OLLAMA_NUM_PARALLEL slots of a context each; more requests wait."""
    two = _ledger(replace(JOB, num_parallel=2, concurrency=2))
    assert two.groups["kv_cache"] == 2 * _ledger(JOB).groups["kv_cache"]
    assert "OLLAMA_NUM_PARALLEL is 1" in _ledger(replace(JOB, concurrency=2)).verdict.sentence


def test_some_architectures_have_one_slot() -> None:
    """Whatever is asked for."""
    found = _ledger(replace(JOB, num_parallel=4, concurrency=2), "qwen3-next-80b-a3b", find("h200"))
    assert "Ollama gives qwen3next one slot" in found.verdict.sentence


def test_the_overhead_of_a_gpu_is_not_counted_on() -> None:
    """OLLAMA_GPU_OVERHEAD, in bytes."""
    before, after = _ledger(JOB).verdict, _ledger(replace(JOB, gpu_overhead=GIB)).verdict
    assert before.margin_bytes - after.margin_bytes == GIB


def test_quantised_keys_and_values_take_less() -> None:
    """q8_0: 34 bytes for 32 elements."""
    assert _ledger(replace(JOB, kv_cache_type="q8_0")).printed[2].value == _ledger(JOB).printed[2].value * 34 / 64


def test_an_old_gpu_has_no_flash_attention() -> None:
    """A compute capability of 7.2, or below 6: the batch is smaller then."""
    old = replace(GPU, compute_capability="5.2", program_bytes=8 * GIB)
    assert any("256" in each for each in _ledger(replace(JOB, context=8192), "llama-3.2-1b", old).assumptions)
    with pytest.raises(OomphError, match="flash"):
        _ledger(replace(JOB, kv_cache_type="q8_0"), "llama-3.2-1b", old)


def test_a_command_and_a_modelfile_say_the_job() -> None:
    """What there is no variable for stands in a Modelfile."""
    job = replace(JOB, num_parallel=2, kv_cache_type="q8_0", num_gpu=20)
    words = engine("ollama").command("llama3.1:8b", job)
    assert words[:3] == ["OLLAMA_CONTEXT_LENGTH=4096", "OLLAMA_NUM_PARALLEL=2", "OLLAMA_KV_CACHE_TYPE=q8_0"]
    assert read_text(" ".join(words)).model == "llama3.1:8b"
    assert modelfile("llama3.1:8b", job) == "FROM llama3.1:8b\nPARAMETER num_ctx 4096\nPARAMETER num_gpu 20\n"
    assert any("PARAMETER num_gpu 20" in each for each in _ledger(job).assumptions)
    with pytest.raises(UnsupportedError, match="one line"):
        modelfile("a\nPARAMETER num_ctx 1", job)


@pytest.mark.parametrize(
    ("job", "named"),
    [
        (replace(JOB, flash_attention="maybe"), "OLLAMA_FLASH_ATTENTION"),
        (replace(JOB, gpu_overhead=-1), "OLLAMA_GPU_OVERHEAD"),
        (replace(JOB, kv_cache_type="q3"), "'q3'"),
        (replace(JOB, format="nf4"), "nf4"),
    ],
)
def test_what_is_not_there_is_refused_by_name(job: OllamaJob, named: str) -> None:
    """No traceback, no guess."""
    with pytest.raises(OomphError, match=named):
        _ledger(job)


def test_lm_studios_requests_share_a_context() -> None:
    """Four slots of one cache; a share of the layers is on the GPU."""
    job = LmStudioJob(format="q4_k_m")
    whole = _ledger(job, program="lm-studio")
    assert whole.job["context"] == 4096
    assert (
        whole.groups["kv_cache"]
        == _ledger(replace(job, concurrency=4, context=1024), program="lm-studio").groups["kv_cache"]
    )
    half = {item.device: item for item in _ledger(replace(job, gpu="0.5"), program="lm-studio").items}
    assert {"gpu", "host"} <= half.keys()
    with pytest.raises(UsageError, match="--gpu"):
        _ledger(replace(job, gpu="1.5"), program="lm-studio")


def test_lm_studios_command_is_read_back() -> None:
    """lms load."""
    words = engine("lm-studio").command("qwen/qwen3-4b", LmStudioJob(context=8192, gpu="0.5"))
    assert words == ["lms", "load", "qwen/qwen3-4b", "--context-length", "8192", "--gpu", "0.5"]
    assert read_text(" ".join(words)).job == LmStudioJob(context_length=8192, gpu="0.5")


def test_layers_are_told_in_its_own_words() -> None:
    """No flag of llama-server, which nobody types here."""
    for name, said in (("ollama", "num_gpu not given"), ("lm-studio", "--gpu 0.5 puts half")):
        program = engine(name)
        told = program.deploy(subject("llama-3.2-1b"), program.job(format="q8_0")).assumptions
        assert any(said in text for text in told), told
        assert not any("-ngl" in text or "--fit" in text for text in told)
