"""Activations in host memory: the tape's events equal those of TRL's and torchtune's own files and of torch's hooks."""

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
from tests.tape.grid import compare

GOLDEN = Path(__file__).parent / "activation_offload.json"
RECIPE = (
    "pip install --no-deps trl==1.16.0 torchtune==0.6.1, then python -m tests.tape.golden"
    " tests.tape.test_activation_offload"
)
SIZES: dict[str, Any] = {
    "vocab_size": 515, "num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 128, "head_dim": 16, "pad_token_id": 0, "n_head": 4,
}  # fmt: skip
TRL: dict[str, Any] = {"batch": 2, "seq_len": 37, "activation_offload": "trl"}
TUNE = TRL | {"activation_offload": "torchtune"}
AGAIN, OUTER = {"checkpointing": "non-reentrant"}, {"checkpointing": "reentrant"}
AMP = {"precision": "amp-bf16", "fp32_outputs": True}
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (SIZES | {"model_type": model_type}, job)
    for model_type, job in (
        ("llama", TRL),
        ("qwen3", TRL | AGAIN),
        ("llama", TRL | OUTER | {"accumulation": 2, "steady": False}),
        ("gpt2", TRL),  # queries, keys and values are parts of one tensor
        ("phi3", TRL | AGAIN),
        ("gpt_neox", TRL | {"padding": True}),
        ("gemma2", TRL | OUTER | {"padding": True}),
        ("llama", TRL | AGAIN | AMP | {"method": "lora", "loss": "fused-head"}),
        ("llama", TRL | {"method": "qlora", "padding": True}),
        ("qwen2", TRL | AGAIN | {"objective": "dpo", "padding": True, "precision": "amp-bf16"}),
        ("llama", TUNE | AGAIN | {"accumulation": 2}),
        ("gpt2", TUNE),
        ("qwen3", TUNE | AGAIN | {"method": "lora", "attention": "eager"}),
    )
]


@pytest.mark.parametrize(("raw", "job", "said"), read(GOLDEN), ids=[f"{i}" for i in range(len(CASES))])
def test_every_event_equals_the_recorded_one(raw: dict[str, Any], job: TrainJob, said: dict[str, Any]) -> None:
    """The same allocations and frees in the same order as the packages' own code."""
    assert estimated(raw, job) == said


@pytest.mark.slow
def test_the_record_is_what_the_packages_do() -> None:
    """Where they are installed, their code says again what was recorded."""
    if any(PathFinder.find_spec(name) is None for name in ("trl", "torchtune")):
        pytest.skip("trl and torchtune are not both installed")
    assert [said for *_, said in read(GOLDEN)] == [traced(raw, job) for raw, job, _ in read(GOLDEN)]


def test_the_record_is_of_these_cases() -> None:
    """Nothing is compared that is not written down here."""
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"]
    assert [[row["config"], row["job"]] for row in rows] == json.loads(json.dumps(CASES))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, AGAIN, OUTER | {"method": "lora"}], ids=str)
def test_save_on_cpu_equals_the_trace(changes: dict[str, Any]) -> None:
    """torch's own hooks, event by event."""
    job = TrainJob(**TRL | {"activation_offload": "save-on-cpu"} | changes)
    parting, ours, theirs = compare(SIZES | {"model_type": "llama"}, job)
    assert parting is None
    assert ours == theirs


@pytest.mark.parametrize("kind", ["trl", "torchtune", "save-on-cpu"])
@pytest.mark.parametrize("checkpointing", ["none", "reentrant", "non-reentrant"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_layers_fold(kind: Any, checkpointing: Any, method: Any) -> None:
    """A deeper peak, told from few layers, is the one played in full, though a tensor on its way stays five layers."""
    model = model_from_config(SIZES | {"model_type": "llama", "num_hidden_layers": 25})
    job = TrainJob(2, 120, method=method, optimizer="none", activation_offload=kind, checkpointing=checkpointing)
    folded = step(model, job)
    assert folded.folded
    assert folded.peak == max(train_step(model, job).live)


def test_what_a_layer_more_costs() -> None:
    """Nothing where all goes to the host; TRL leaves on the GPU what it meets a second time while it is on its way."""
    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "model_type": "llama"}
    per_layer: dict[str, float] = {}
    for kind in ("none", "trl", "save-on-cpu"):
        peaks = []
        for depth in (10, 20):
            model = model_from_config(sizes | {"num_hidden_layers": depth})
            job = TrainJob(2, 2048, method="lora", rank=1, activation_offload=kind, optimizer="none")  # type: ignore[arg-type]
            peaks.append(int(step(model, job).peak) - 2 * model.params)
        per_layer[kind] = (peaks[1] - peaks[0]) / 10
    assert per_layer["save-on-cpu"] < 0.01 * per_layer["none"]
    assert 0.01 * per_layer["none"] < per_layer["trl"] < 0.5 * per_layer["none"], per_layer


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"checkpointing": "unsloth"}, "moves inputs itself"),
        ({"kernels": "unsloth", "method": "lora"}, "Unsloth's kernels"),
        ({"model_code": "litgpt"}, "the code of litgpt"),
    ],
)
def test_what_it_does_not_go_with_is_refused(changes: dict[str, Any], what: str) -> None:
    """Each by name."""
    with pytest.raises(UsageError, match=what):
        TrainJob(**TRL | changes)
