"""Copies that train beside frozen originals, biases alone, parts that freeze: against the real classes and PEFT."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import trainable_params
from oomph.methods.saved import NORM_TARGETS
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.referee import models
from tests.tape.grid import compare

MODEL = model_from_config(LLAMA_3_8B)
TABLE = 128256 * 4096
LLAMA, TIED, GPT2, QWEN2 = models.LLAMA, models.TIED, models.GPT2, models.QWEN2
LORA = {"method": "lora"}
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (LLAMA, {"freeze_embeddings": True}),
    (LLAMA, {"freeze_layers": 1}),
    (TIED, {"freeze_embeddings": True, "freeze_layers": 1, "checkpointing": "reentrant"}),
    (GPT2, {"freeze_embeddings": True, "freeze_layers": 1, "checkpointing": "non-reentrant"}),
    (GPT2, {"method": "bitfit"}),
    (QWEN2, {"method": "bitfit", "precision": "amp-bf16", "checkpointing": "reentrant"}),
    (LLAMA, {"method": "ln-tuning"}),
    (GPT2, {"method": "ln-tuning", "checkpointing": "reentrant"}),
    (QWEN2, {"method": "ln-tuning", "precision": "amp-bf16"}),
    (LLAMA, {**LORA, "modules_to_save": "lm_head"}),
    (LLAMA, {**LORA, "modules_to_save": "embed_tokens,lm_head", "adapter_dtype": "base", "clip_gradients": True}),
    (TIED, {**LORA, "modules_to_save": "embed_tokens"}),
    (TIED, {**LORA, "modules_to_save": "lm_head"}),
    (TIED, {**LORA, "modules_to_save": "embed_tokens,lm_head", "checkpointing": "reentrant"}),
    (TIED, {"method": "qlora", "modules_to_save": "norm,lm_head", "precision": "amp-bf16"}),
    (GPT2, {**LORA, "modules_to_save": "wte", "targets": "all-linear"}),
    (GPT2, {**LORA, "modules_to_save": "lm_head,ln_f", "implementation": "loop"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "options"), CASES, ids=[f"{raw['model_type']}-{at}" for at, (raw, _) in enumerate(CASES)]
)
def test_every_event_equals_the_trace(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """Frozen tables and layers, copies with their own gradients, tied heads that come apart."""
    parting, ours, theirs = compare(raw, TrainJob(2, 37, **options))
    assert parting is None, str(parting)
    assert ours == theirs


def test_a_saved_head_is_there_twice_and_trains_once() -> None:
    """The frozen original stays: a copy in bf16 has 2 bytes of weight, 2 of gradient and 4 of states an element."""
    plain, saved = (TrainJob(method="lora", modules_to_save=names) for names in ("", "lm_head"))
    assert trainable_params(MODEL, saved) - trainable_params(MODEL, plain) == TABLE
    assert step(MODEL, saved).resident - step(MODEL, plain).resident == (2 + 4) * TABLE


def test_frozen_layers_have_neither_gradients_nor_states() -> None:
    """Half of the layers frozen: half of their gradients and states, and no activations of theirs are kept."""
    half = TrainJob(freeze_layers=16, freeze_embeddings=True)
    frozen = trainable_params(MODEL, TrainJob()) - trainable_params(MODEL, half)
    assert frozen == 16 * 218_112_000 + TABLE
    full = step(MODEL, TrainJob())
    assert full.resident - step(MODEL, half).resident == 4 * frozen
    assert full.forward_end - step(MODEL, half).forward_end > 16 * 411_321_344


def test_a_step_with_frozen_layers_is_played_in_full() -> None:
    """Layers that differ do not fold; other depths get recipes of their own."""
    for layers in (5, 9):
        model = model_from_config({**LLAMA_3_8B, "num_hidden_layers": layers})
        job = TrainJob(freeze_layers=2)
        assert not step(model, job).folded
        assert step(model, job).peak == train_step(model, job).peak


def test_bitfit_and_ln_tuning_train_next_to_nothing() -> None:
    """Two norms of 4096 in 32 layers and one after them; Llama has no bias."""
    assert trainable_params(MODEL, TrainJob(method="ln-tuning")) == 65 * 4096
    with pytest.raises(UsageError, match="Nothing trains"):
        step(MODEL, TrainJob(method="bitfit"))


def test_what_does_not_go_together_is_refused() -> None:
    """Freezing beside a method that freezes, copies without adapters, names of nothing."""
    with pytest.raises(UsageError, match="freezes what it does not train"):
        TrainJob(method="lora", freeze_layers=1)
    with pytest.raises(UsageError, match="beside adapters only"):
        TrainJob(modules_to_save="lm_head")
    with pytest.raises(UsageError, match="no module 'lm_hed'"):
        step(MODEL, TrainJob(method="lora", modules_to_save="lm_hed"))
    with pytest.raises(UnsupportedError, match="mlp"):
        step(MODEL, TrainJob(method="lora", modules_to_save="mlp"))


@pytest.mark.slow
def test_norms_are_peft_s() -> None:
    """The mapping of the installed PEFT, for the models that oomph plays."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING as THEIRS

    assert {name: tuple(THEIRS[name]) for name in NORM_TARGETS} == NORM_TARGETS
