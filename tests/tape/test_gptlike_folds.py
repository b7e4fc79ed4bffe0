"""GPT-like families folded, and what their classes cannot be asked."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from oomph.errors import UnsupportedError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.play import play, train_step
from oomph.steps import step
from tests.tape.gptlike import config

KIN = ("biogpt", "codegen", "openai-gpt", "xglm")


@pytest.mark.parametrize("family", KIN)
def test_layers_fold(family: str) -> None:
    """A deeper model's peak, told from few layers, is the one played in full, at any length."""
    raw = config(random.Random(family), family) | {"num_hidden_layers": 8, "num_layers": 8}
    model, job = model_from_config(raw), TrainJob(2, 9, padding=True)
    for seq_len in (9, 64):
        assert step(model, replace(job, seq_len=seq_len)).peak == max(
            train_step(model, replace(job, seq_len=seq_len)).live
        )


def test_the_first_gpt_keeps_nothing() -> None:
    """Its class has no cache and checkpoints no layers."""
    model = model_from_config(config(random.Random(1), "openai-gpt"))
    with pytest.raises(UnsupportedError, match="no cache"):
        play(model, InferJob(1, 8))
    with pytest.raises(UnsupportedError, match="no gradient checkpointing"):
        step(model, TrainJob(1, 8, checkpointing="non-reentrant"))


def test_layers_left_out_at_random_are_refused() -> None:
    """LayerDrop, by name."""
    for family in ("biogpt", "xglm"):
        with pytest.raises(UnsupportedError, match="layerdrop"):
            step(model_from_config(config(random.Random(1), family) | {"layerdrop": 0.1}), TrainJob(1, 8))
