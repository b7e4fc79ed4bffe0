"""Unsloth's gradient checkpointing: the tape's events equal those of its own file, streams and host memory left out."""

from __future__ import annotations

import json
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.play import train_step
from oomph.steps import step
from tests.tape.golden import estimated, read, traced

GOLDEN = Path(__file__).parent / "offload.json"
RECIPE = "pip install --no-deps unsloth_zoo==2026.10.9, then python -m tests.tape.golden tests.tape.test_offload"
SIZES: dict[str, Any] = {
    "vocab_size": 515, "num_hidden_layers": 3, "hidden_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 4096, "head_dim": 16, "pad_token_id": 0,
}  # fmt: skip
OFFLOADED: dict[str, Any] = {"batch": 2, "seq_len": 2048, "checkpointing": "unsloth"}  # 4 MiB for each layer's input
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (SIZES | {"model_type": model_type}, OFFLOADED | job)
    for model_type, job in (
        ("llama", {}),
        ("llama", {"steady": False, "accumulation": 2}),
        ("qwen2", {"method": "lora", "precision": "fp32"}),
        ("llama", {"precision": "amp-bf16", "accumulation": 2}),
        ("mistral", {"checkpoint_every": 2, "optimizer": "sgd"}),
        ("qwen3", {"method": "qlora", "attention": "efficient", "padding": True}),
        ("gemma2", {"seq_len": 512}),  # too little to be moved
    )
]


@pytest.mark.parametrize(("raw", "job", "said"), read(GOLDEN), ids=[f"{i}" for i in range(len(CASES))])
def test_every_event_equals_the_recorded_one(raw: dict[str, Any], job: TrainJob, said: dict[str, Any]) -> None:
    """The same allocations and frees in the same order as the real code's, recorded with the package."""
    assert estimated(raw, job) == said


@pytest.mark.slow
def test_the_record_is_what_the_package_does() -> None:
    """Where it is installed, its code says again what was recorded."""
    if PathFinder.find_spec("unsloth_zoo") is None:
        pytest.skip("unsloth_zoo is not installed")
    assert [said for *_, said in read(GOLDEN)] == [traced(raw, job) for raw, job, _ in read(GOLDEN)]


def test_the_record_is_of_these_cases() -> None:
    """Nothing is compared that is not written down here."""
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"]
    assert [[row["config"], row["job"]] for row in rows] == json.loads(json.dumps(CASES))


def test_depth_costs_no_inputs() -> None:
    """With ten layers more a reentrant job keeps ten more inputs of 4 MiB, an offloaded one none."""
    peaks: dict[tuple[str, int], int] = {}
    for kind in ("reentrant", "unsloth"):
        for depth in (10, 20):
            model = model_from_config(SIZES | {"model_type": "llama", "num_hidden_layers": depth})
            job = TrainJob(**OFFLOADED | {"checkpointing": kind, "method": "lora", "rank": 1})
            peaks[kind, depth] = int(step(model, job).peak) - 2 * model.params
    assert peaks["reentrant", 20] - peaks["reentrant", 10] > 9.9 * 2**22
    assert peaks["unsloth", 20] - peaks["unsloth", 10] < 2**20


def test_layers_fold() -> None:
    """A deeper model's peak, told from few layers, is the one played in full."""
    model = model_from_config(SIZES | {"model_type": "llama", "num_hidden_layers": 9})
    job = TrainJob(**OFFLOADED, accumulation=2)
    assert step(model, job).peak == max(train_step(model, job).live)


def test_objectives_refuse_it() -> None:
    """Their passes without gradients would count as inputs too."""
    with pytest.raises(UsageError, match="Unsloth's checkpointing"):
        TrainJob(**OFFLOADED, objective="dpo", loss="fused-head")
