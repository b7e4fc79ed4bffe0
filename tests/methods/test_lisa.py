"""LISA: a few layers train at a time, and all that is no layer; states of layers stay when others take their turn."""

from __future__ import annotations

import random
from typing import Any

import pytest

from oomph.errors import UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import trainable_params
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.referee import models
from tests.tape.grid import compare
from tests.tape.vision import config

MODEL = model_from_config(LLAMA_3_8B)
LAYER = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096 + 2 * 4096
OTHERS = 2 * 128256 * 4096 + 4096
JOBS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (models.LLAMA, {"active_layers": 1}),
    (models.GPT2, {"active_layers": 1, "steady": False, "clip_gradients": True}),
    (models.LLAMA, {"active_layers": 1, "optimizer": "adamw_8bit", "checkpointing": "reentrant"}),
    (models.LLAMA, {"active_layers": 1, "optimizer": "adagrad", "precision": "amp-bf16", "steady": False}),
]


def test_gradients_are_of_some_layers_and_states_of_all_that_had_their_turn() -> None:
    """Two layers train; after a first step theirs are all the states there are, later there are those of all layers."""
    first, later = (TrainJob(method="lisa", seq_len=16, steady=steady) for steady in (False, True))
    assert trainable_params(MODEL, later) == 2 * LAYER + OTHERS
    played = train_step(MODEL, first)
    assert played.kept("optimizer state") == 4 * (2 * LAYER + OTHERS)
    assert played.kept("gradient", played.backward_end) == 2 * (2 * LAYER + OTHERS)
    assert train_step(MODEL, later).kept("optimizer state") == 4 * (32 * LAYER + OTHERS)


def test_a_frozen_tower_has_no_states() -> None:
    """It never had its turn: LISA leaves as many states as full fine-tuning of what is not frozen."""
    model = model_from_config(config(random.Random(5), "llava"))
    full, lisa = (TrainJob(1, 32, method=method, freeze_vision=True, active_layers=1) for method in ("full", "lisa"))
    assert train_step(model, lisa).kept("optimizer state") == train_step(model, full).kept("optimizer state")


@pytest.mark.parametrize("active", [1, 3, 8])
@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant"])
def test_a_recipe_says_what_playing_in_full_does(checkpointing: Any, active: int) -> None:
    """The first layers are others than those that repeat: so many are played, however many that are."""
    job = TrainJob(method="lisa", seq_len=64, checkpointing=checkpointing, active_layers=active)
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


def test_most_or_all_layers_may_train() -> None:
    """Where a fold would take as many layers as there are, the step is played in full."""
    for active in (30, 32):
        job = TrainJob(method="lisa", seq_len=16, active_layers=active)
        assert step(MODEL, job).peak == train_step(MODEL, job).peak


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quantization": "nf4"}, "whole layers"),
        ({"modules_to_save": "lm_head"}, "whole layers"),
        ({"active_layers": 33}, "no 33 layers"),
        ({"zero_stage": 2}, "states for each parameter"),
    ],
)
def test_what_does_not_go_with_lisa_is_refused(options: dict[str, Any], said: str) -> None:
    """Quantised layers, copies of modules, more layers than there are, one flat state of all parameters."""
    with pytest.raises(UsageError, match=said):
        trainable_params(MODEL, TrainJob(method="lisa", **options))


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "inputs"), JOBS, ids=[f"{raw['model_type']}-{one}" for raw, one in JOBS])
def test_every_event_of_a_step_equals_the_trace(raw: dict[str, Any], inputs: dict[str, Any]) -> None:
    """Layers are switched off before the step as the callback does it, after one in which all of them trained."""
    parting, ours, theirs = compare(raw, TrainJob(1, 8, method="lisa", **inputs))
    assert parting is None, str(parting)
    assert ours == theirs
