"""Losses on the tape equal the real ones: Liger's, Unsloth's and Apple's own code, where it is installed."""

from __future__ import annotations

from importlib.machinery import PathFinder
from typing import Any

import pytest

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.job_words import Loss
from oomph.losses import LOSSES
from oomph.steps import step

RAW: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 515,
    "num_hidden_layers": 2,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
}
PACKAGES = {
    "liger": "liger_kernel", "liger-fms": "fms_acceleration_foak", "fused": "fms_acceleration_foak",
    "fused-shifted": "fms_acceleration_foak", "fused-4.45": "fms_acceleration_foak", "cut": "cut_cross_entropy",
    "unsloth": "unsloth_zoo", "unsloth-2024": "fms_acceleration_foak",
}  # fmt: skip
WIDE = 70_001  # columns that Unsloth's kernel takes in two parts

CASES = [
    ("hf-fp32", TrainJob(2, 37, loss="hf-fp32", autocast=True, fp32_outputs=True, hold_logits=False, method="lora")),
    ("hf-fp32", TrainJob(1, 37, loss="hf-fp32", accumulation=2)),
    ("hf-4.46", TrainJob(2, 37, loss="hf-4.46", hold_logits=False)),
    ("hf-4.46", TrainJob(1, 37, "amp-bf16", loss="hf-4.46", checkpointing="non-reentrant")),
    ("hf-4.45", TrainJob(3, 10, loss="hf-4.45", fp32_outputs=True, accumulation=2)),
    ("shifted", TrainJob(2, 37, autocast=True, loss="shifted")),
    ("shifted", TrainJob(2, 37, "amp-bf16", loss="shifted")),
    ("mean", TrainJob(2, 37, "amp-bf16", loss="mean")),
    ("mean", TrainJob(1, 37, loss="mean", optimizer="none", accumulation=2)),
    ("liger", TrainJob(2, 37, loss="liger")),
    ("liger", TrainJob(2, 37, "fp32", loss="liger", attention="eager", accumulation=2)),
    ("liger", TrainJob(3, 100, "amp-bf16", loss="liger", checkpointing="non-reentrant")),
    ("liger-fms", TrainJob(3, 100, loss="liger-fms", checkpointing="reentrant")),
    ("liger-fms", TrainJob(1, 37, loss="liger-fms")),
    ("fused", TrainJob(2, 37, loss="fused", hold_logits=False)),
    ("fused", TrainJob(1, 37, "amp-bf16", loss="fused", accumulation=2)),
    ("fused-4.45", TrainJob(2, 37, loss="fused-4.45")),
    ("fused-shifted", TrainJob(2, 37, loss="fused-shifted")),
    ("unsloth", TrainJob(2, 37, loss="unsloth", hold_logits=False)),
    ("unsloth", TrainJob(1, 100, loss="unsloth", method="lora", accumulation=2)),
    ("unsloth-2024", TrainJob(2, 37, loss="unsloth-2024")),
    ("unsloth-2024", TrainJob(1, 37, autocast=True, loss="unsloth-2024", hold_logits=False)),
    ("cut", TrainJob(2, 100, loss="cut")),
    ("cut", TrainJob(1, 37, loss="cut", checkpointing="non-reentrant")),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("loss", "job"), CASES)
def test_every_event_of_a_step_with_a_loss_equals_the_trace(loss: str, job: TrainJob, tied: bool) -> None:
    """Whatever computes the loss, the step's events are those of the real code."""
    from tests.tape.grid import compare

    if loss in PACKAGES and PathFinder.find_spec(PACKAGES[loss]) is None:
        pytest.skip(f"{PACKAGES[loss]} is not installed")
    raw = RAW | {"tie_word_embeddings": tied, "vocab_size": WIDE if loss == "fused" and tied else RAW["vocab_size"]}
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


def peaks(**options: Any) -> dict[str, int]:
    """Return the peak of a step of a model with a large vocabulary, by loss."""
    raw = RAW | {"vocab_size": 32_000}
    losses = [loss for loss in LOSSES if loss not in ("mean", "logits")]
    model = model_from_config(raw)
    return {loss: int(step(model, TrainJob(2, 512, loss=loss, optimizer="none", **options)).peak) for loss in losses}


def test_a_loss_that_makes_fewer_logits_takes_less() -> None:
    """No logits, a kernel that writes over them, fp32 copies, and one more copy, in this order."""
    found = peaks(hold_logits=False)
    assert max(found["cut"], found["liger"], found["liger-fms"], found["unsloth"]) < found["fused"] < found["hf"]
    assert found["hf"] < found["hf-4.46"]


@pytest.mark.parametrize("loss", ["cut", "liger", "unsloth", "unsloth-2024", "fused-head"])
def test_one_token_has_no_next_one(loss: Loss) -> None:
    """The shortest sequence, where nothing is scored, is a step too."""
    assert step(model_from_config(RAW), TrainJob(1, 1, loss=loss)).peak


def test_losses_that_fail_with_fp32_weights_are_refused() -> None:
    """Apple's kernel takes 16 bit alone, and fms-acceleration's product fails with two dtypes."""
    with pytest.raises(UsageError, match="wants weights in 16 bit"):
        TrainJob(precision="amp-bf16", loss="cut")


def test_every_loss_is_a_file() -> None:
    """What can be asked for can be played."""
    from typing import get_args

    from oomph.losses import loss_file

    assert set(get_args(Loss)) == set(LOSSES)
    assert all(callable(loss_file(name).end) for name in LOSSES)
