"""Selective checkpointing: the tape's events equal those of torch's create_selective_checkpoint_contexts."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.play import train_step
from oomph.steps import step
from tests.tape.grid import compare

SIZES: dict[str, Any] = {
    "vocab_size": 515, "num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 128, "head_dim": 16, "pad_token_id": 0, "n_head": 4,
}  # fmt: skip
JOB: dict[str, Any] = {"batch": 2, "seq_len": 37, "checkpointing": "non-reentrant"}
TITAN = "mm/2,attention"
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"checkpoint_saves": "mm"}),
    ("llama", {"checkpoint_saves": TITAN, "method": "lora", "attention": "cudnn"}),
    ("gpt2", {"checkpoint_saves": "addmm,attention", "accumulation": 2}),
    ("qwen2", {"checkpoint_saves": "mm,addmm,attention", "attention": "efficient", "padding": True}),
    ("qwen3", {"checkpoint_saves": "bmm", "attention": "eager", "precision": "amp-bf16", "checkpoint_every": 2}),
    ("llama", {"checkpoint_saves": TITAN, "activation_offload": "save-on-cpu"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "changes"), CASES, ids=str)
def test_every_event_equals_the_trace(model_type: str, changes: dict[str, Any]) -> None:
    """What is kept, what runs again and what is left over when the second run stops early."""
    parting, ours, theirs = compare(SIZES | {"model_type": model_type}, TrainJob(**JOB | changes))
    assert parting is None
    assert ours == theirs


def _peak(depth: int, **changes: Any) -> int:
    model = model_from_config(SIZES | {"model_type": "llama", "num_hidden_layers": depth})
    return int(step(model, TrainJob(**JOB | {"batch": 64, "optimizer": "none"} | changes)).peak)


def test_more_operations_take_more() -> None:
    """From none over attention and every other product to all of them; without checkpoints it is more still."""
    peaks = [_peak(12, checkpoint_saves=words) for words in ("", "attention", TITAN, "mm,attention")]
    peaks.append(_peak(12, checkpointing="none"))
    assert peaks == sorted(set(peaks))


def test_layers_fold() -> None:
    """A deeper model's peak, told from few layers, is the one played in full."""
    model = model_from_config(SIZES | {"model_type": "llama", "num_hidden_layers": 9})
    job = TrainJob(**JOB | {"batch": 16, "optimizer": "none"}, checkpoint_saves=TITAN)
    assert step(model, job).folded
    assert step(model, job).peak == max(train_step(model, job).live)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"checkpoint_saves": "attentoin"}, "attention"),
        ({"checkpoint_saves": "mm", "checkpointing": "reentrant"}, "non-reentrant"),
        ({"checkpoint_saves": "mm", "checkpointing": "none"}, "non-reentrant"),
    ],
)
def test_what_cannot_be_kept_is_refused(changes: dict[str, Any], what: str) -> None:
    """Words that name no operation, and ways of checkpointing that keep none."""
    with pytest.raises(UsageError, match=what):
        TrainJob(**JOB | changes)
