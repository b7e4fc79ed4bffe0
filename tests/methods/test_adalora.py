"""AdaLoRA against the real one: every event of a step, the loss of its orthogonality among them."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import OomphError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import adapted, trainable_params
from oomph.methods.targets import ADALORA_TARGETS
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.referee import models
from tests.tape.grid import compare

MODEL = model_from_config(LLAMA_3_8B)
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (models.QWEN2, {"targets": "all-linear", "checkpointing": "non-reentrant", "adapter_dropout": 0.1}),
    (models.GPT2, {"precision": "amp-fp16", "targets": "c_attn,c_fc", "checkpointing": "reentrant", "steady": False}),
    (models.LLAMA, {"quantization": "nf4-dq", "kbit_preparation": True, "accumulation": 2}),
    (models.QWEN2, {"quantization": "int8", "adapter_dtype": "base", "autocast": True}),
    (models.QWEN2, {"precision": "amp-bf16", "fp32_outputs": True, "hold_logits": False}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "options"), CASES)
def test_every_event_equals_the_trace(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """Allocations, frees, their order, peak, what is kept."""
    parting, ours, theirs = compare(raw, TrainJob(**{"method": "adalora", "batch": 2, "seq_len": 9, **options}))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("options", [options for _, options in CASES], ids=str)
def test_a_folded_step_equals_one_played_in_full(options: dict[str, Any]) -> None:
    """One recipe holds for all depths, the walk over all adapters included."""
    job = TrainJob(**{"method": "adalora", "seq_len": 64, **options, "targets": "default"})
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


def test_what_trains() -> None:
    """LoRA's factors, a number for each rank, and the rank itself, which PEFT lets train once it is cast or moved."""
    lora, ours = (trainable_params(MODEL, TrainJob(method=method, rank=12)) for method in ("lora", "adalora"))
    assert ours - lora == 32 * 2 * (12 + 1)
    assert trainable_params(MODEL, TrainJob(method="adalora", rank=12, precision="amp-bf16")) - lora == 32 * 2 * 12


@pytest.mark.slow
def test_default_targets_are_peft_s() -> None:
    """For every model that both know."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING as THEIRS

    listed = {
        name for name in ADALORA_TARGETS if not isinstance(THEIRS[name], str)
    }  # others are patterns of LoRA's too
    assert {name: tuple(THEIRS[name]) for name in listed} == {name: ADALORA_TARGETS[name] for name in listed}


def test_what_fails_or_is_not_played_is_refused() -> None:
    """8-bit maps in 16 bits without autocast, GPTQ bases."""
    for options, why in (
        ({"quantization": "int8"}, "attention refuses"),
        ({"quantization": "gptq-4bit-g128"}, "no Ada"),
    ):
        with pytest.raises(OomphError, match=why):
            adapted(MODEL, TrainJob(method="adalora", **options))  # type: ignore[arg-type]
