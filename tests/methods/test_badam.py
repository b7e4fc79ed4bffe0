"""BAdam: one layer trains, on fp32 copies; its steps are recorded with the optimizers (tests/optimizers/golden.py)."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import trainable_params
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B

MODEL = model_from_config(LLAMA_3_8B)
LAYER = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096 + 2 * 4096


def test_one_layer_trains_with_twelve_bytes_a_weight() -> None:
    """Copies and states of 218 million weights in fp32, whatever the depth; gradients of as many."""
    job = TrainJob(method="badam", seq_len=16)
    assert (job.optimizer, trainable_params(MODEL, job)) == ("adamw-master", LAYER)
    played = train_step(MODEL, job)
    assert played.kept("optimizer state") == 12 * LAYER
    assert played.kept("gradient", played.backward_end) == 2 * LAYER


@pytest.mark.parametrize("checkpointing", ["none", "reentrant", "non-reentrant"])
def test_a_recipe_says_what_playing_in_full_does(checkpointing: Any) -> None:
    """The first layer is another one than those that repeat."""
    job = TrainJob(method="badam", seq_len=64, checkpointing=checkpointing)
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


def test_quantised_layers_do_not_train() -> None:
    """Nor are copies of modules asked for."""
    for options in ({"quantization": "nf4"}, {"modules_to_save": "lm_head"}):
        with pytest.raises(UsageError, match="whole layers"):
            trainable_params(MODEL, TrainJob(method="badam", **options))  # type: ignore[arg-type]
