"""LitGPT's model code: the tape against what its real code was recorded to do, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oomph.compare import steps
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import adapted, trainable_params
from oomph.play import play
from oomph.runtimes import runtime
from oomph.runtimes.base import Versions
from oomph.score.asking import Case, catalogued
from oomph.steps import step
from tests.methods.litgpt_jobs import ALL, GOLDEN, MODELS, jobs, summary, told

RECORDED = {(one["model"], json.dumps(one["job"])): one for one in json.loads(GOLDEN.read_text())}
CASES = list(jobs())


@pytest.mark.parametrize(
    ("name", "job"), CASES, ids=[f"{job.model_code}-{name}-{job.method}-{i}" for i, (name, job) in enumerate(CASES)]
)
def test_every_event_of_a_step_equals_the_real_code(name: str, job: TrainJob) -> None:
    """Each allocation and free, in order, of a step of each release, and what lies there before."""
    played = play(model_from_config(MODELS[name][0]), job, on="trace")
    stream = played.recorder.stream()
    stream.events = stream.events[: played.end]
    ours = summary(
        steps(stream, played.start, job.precision.startswith("amp-")),
        played.kept("parameter", played.start),
        played.kept("buffer", played.start),
    )
    recorded = RECORDED[name, json.dumps(told(job))]
    assert ours == {key: recorded[key] for key in ours}


# What LitGPT prints as "Number of trainable parameters": tutorials/resource-tables.md of 27 October 2023.
PRINTED = [
    ("phi-1.5", {"method": "lora"}, 1_572_864),
    ("stablelm-base-alpha-3b", {"method": "lora"}, 2_097_152),
    ("llama-2-13b", {"method": "lora"}, 6_553_600),
    ("stablelm-base-alpha-3b", {"method": "adapter"}, 573_888),
    ("stablelm-base-alpha-3b", {"method": "adapter_v2"}, 2_125_248),
]


@pytest.mark.parametrize(("name", "options", "count"), PRINTED, ids=[f"{one[0]}-{one[1]['method']}" for one in PRINTED])
def test_trainable_parameters_are_what_litgpt_prints(name: str, options: dict[str, Any], count: int) -> None:
    """LoRA of rank 8 on query and value, and both adapters, on real models."""
    job = runtime("litgpt").job(Versions.found_in("torch 2.1.0"), **options)
    assert trainable_params(catalogued(name).model, job) == count


# Peaks that LitGPT printed in GB: config_hub/finetune/README.md (April and August 2024), tutorials/resource-tables.md.
PEAKS = [
    ("falcon-7b", {"method": "lora", "rank": 32, "quantization": "nf4", "seq_len": 512}, "2.2", 9.44),
    ("gemma-2-2b", {"method": "lora", "targets": ALL, "batch": 2, "seq_len": 512}, "2.4", 14.31),
    ("stablelm-base-alpha-3b", {"method": "adapter_v2", "seq_len": 1034}, "2.1", 10.71),
]


@pytest.mark.parametrize(("name", "options", "torch", "printed"), PEAKS, ids=[one[0] for one in PEAKS])
def test_peaks_are_what_litgpt_printed(name: str, options: dict[str, Any], torch: str, printed: float) -> None:
    """Within half a percent of max_memory_allocated on an A10G or A100."""
    job = runtime("litgpt").job(Versions.found_in(f"torch {torch}"), **options)
    peak = Case(catalogued(name), job, None).figure("allocated").n_bytes
    assert peak / 1e9 == pytest.approx(printed, rel=0.005)


def test_a_quantised_model_holds_its_embedding_three_times() -> None:
    """Since 0.5.1: the old table, the new one, and its gradient, which no optimizer knows; the head is quantised."""
    raw, _ = MODELS["qwen3"]
    table = 2 * raw["vocab_size"] * raw["hidden_size"]
    tables = {}
    for code in ("litgpt", "litgpt-0.4"):
        job = TrainJob(1, 8, model_code=code, loss="litgpt", method="lora", targets="query,value", quantization="nf4")
        played = play(model_from_config(raw), job)
        made = played.recorder.allocations
        alive = played.recorder.stream().live_at(played.start)
        tables[code] = sum(n_bytes == table and "wte" in made[ordinal].scope for ordinal, n_bytes in alive.items())
    assert tables == {"litgpt": 3, "litgpt-0.4": 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "hf"}, "loss hf"),
        ({"checkpointing": "reentrant"}, "checkpointing"),
        ({"padding": True}, "masks"),
        ({"method": "bitfit"}, "bitfit"),
        ({"optimizer_in_backward": True}, "steps in backward"),
        ({"quantization": "int8"}, "int8"),
        ({"targets": "q_proj"}, "q_proj"),
    ],
)
def test_what_litgpt_does_not_have_is_refused_by_name(options: dict[str, Any], words: str) -> None:
    """Options of transformers and PEFT that its recipes on one device lack."""
    job = TrainJob(**{"model_code": "litgpt", "loss": "litgpt", "method": "lora", **options})
    with pytest.raises(UsageError, match=words):
        adapted(model_from_config(MODELS["llama"][0]), job)


def test_a_family_it_does_not_know_is_refused() -> None:
    """BLOOM, which LitGPT has no code for."""
    job = TrainJob(model_code="litgpt", loss="litgpt")
    with pytest.raises(UnsupportedError, match="LitGPT's code for bloom"):
        step(
            model_from_config({"model_type": "bloom", "vocab_size": 64, "hidden_size": 64, "n_head": 4, "n_layer": 2}),
            job,
        )


def test_its_adapters_are_no_methods_of_peft() -> None:
    """Without LitGPT's model code there are no prompts and no scaled maps."""
    with pytest.raises(UsageError, match="litgpt"):
        step(model_from_config(MODELS["llama"][0]), TrainJob(method="adapter"))


def test_a_trace_is_refused() -> None:
    """It runs transformers' classes."""
    from oomph.referee import trace

    with pytest.raises(UnsupportedError, match="transformers' classes"):
        trace.run(MODELS["llama"][0], TrainJob(model_code="litgpt", loss="litgpt"))


def test_depth_is_folded() -> None:
    """Twelve layers are a few played ones, repeated, and as high as twelve played."""
    raw = {**MODELS["llama"][0], "num_hidden_layers": 12}
    job = TrainJob(model_code="litgpt", loss="litgpt", method="lora", targets=ALL, keep_outputs=True)
    folded = step(model_from_config(raw), job)
    assert folded.folded
    assert folded.peak == play(model_from_config(raw), job).peak
