"""PEFT's other methods against the real ones: every event of a later step, and what makes them dear or cheap."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UnsupportedError
from oomph.explain import saved_tensors
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import adapted, trainable_params
from oomph.methods.ia3 import FEEDFORWARD, IA3_TARGETS
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.referee import models
from tests.tape.grid import compare

MODEL = model_from_config(LLAMA_3_8B)
LLAMA, GPT2, QWEN2 = models.LLAMA, models.GPT2, models.QWEN2
CHECKPOINTED = {"checkpointing": "non-reentrant", "padding": True}
DROPPED = {"adapter_dropout": 0.1, "rank": 3}
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (LLAMA, {"method": "dora", "targets": "all-linear", **DROPPED, **CHECKPOINTED}),
    (GPT2, {"method": "dora", "precision": "amp-bf16", "targets": "c_attn,c_fc", "checkpointing": "reentrant"}),
    (LLAMA, {"method": "lora", "quantization": "int8", "kbit_preparation": True, **DROPPED, **CHECKPOINTED}),
    (GPT2, {"method": "lora", "quantization": "int8", "precision": "fp16", "targets": "c_attn,c_fc", "steady": False}),
    (LLAMA, {"method": "ia3", "accumulation": 2, **CHECKPOINTED}),
    (GPT2, {"method": "ia3", "precision": "amp-fp16", "checkpointing": "reentrant"}),
    (QWEN2, {"method": "ia3", "quantization": "nf4", "kbit_preparation": True, "steady": False}),
    (LLAMA, {"method": "lora-fa", "targets": "all-linear", "checkpointing": "reentrant", "adapter_dropout": 0.1}),
    (QWEN2, {"method": "dora", "adapter_dtype": "base", "accumulation": 2}),
    (models.GEMMA2, {"method": "qlora", "checkpointing": "reentrant"}),
    # Biases take the dtype of their first input for good, also where no optimizer leaves anything behind.
    (QWEN2, {"method": "lora", "quantization": "nf4", "optimizer": "sgd", "precision": "amp-bf16"}),
    (GPT2, {"method": "lora", "quantization": "int8", "precision": "amp-bf16", "targets": "c_attn"}),
    (LLAMA, {"method": "dora", "quantization": "nf4-dq", "kbit_preparation": True, "precision": "amp-bf16", **DROPPED}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "options"), CASES, ids=lambda one: one.get("method") or one["model_type"])
def test_every_event_equals_the_trace(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """Allocations, frees, their order, peak, what is kept."""
    parting, ours, theirs = compare(raw, TrainJob(**{"batch": 2, "seq_len": 9, **options}))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("options", [options for _, options in CASES], ids=str)
def test_a_folded_step_equals_one_played_in_full(options: dict[str, Any]) -> None:
    """One recipe holds for all depths."""
    job = TrainJob(seq_len=64, **{**options, "targets": "default"})
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


def test_dora_trains_a_magnitude_for_each_output() -> None:
    """One number for each of the 4096 queries and 1024 values of 32 layers, beside what LoRA has."""
    more = trainable_params(MODEL, TrainJob(method="dora")) - trainable_params(MODEL, TrainJob(method="lora"))
    assert more == 32 * (4096 + 1024)


def test_dropout_makes_dora_keep_every_adapted_weight() -> None:
    """The base map runs a second time, on a weight in fp32 that is kept: 4 bytes for each of its elements."""
    kept = [
        saved_tensors(MODEL, TrainJob(seq_len=1, method=method, adapter_dropout=0.1)).row_bytes
        for method in ("lora", "dora")  # type: ignore[arg-type]
    ]
    weights = 4096 * 4096 + 1024 * 4096
    assert kept[1] - kept[0] > 4 * weights


def test_an_8_bit_map_holds_its_input_beyond_checkpointing() -> None:
    """Its function keeps it as long as the graph: reentrance frees it, the way without does not."""
    ways: tuple[Any, ...] = ("reentrant", "non-reentrant")
    peaks = [step(MODEL, TrainJob(method="lora", quantization="int8", checkpointing=way)).peak for way in ways]
    assert peaks[1] - peaks[0] > 32 * 2048 * 2 * (4096 + 14336)


def test_a_frozen_a_saves_no_input() -> None:
    """bf16 adapters on all maps: each input of a map is gone from what a layer keeps, but what others keep too."""
    kept = [
        saved_tensors(MODEL, TrainJob(method=method, targets="all-linear", adapter_dtype="base", rank=16)).row_bytes
        for method in ("lora", "lora-fa")  # type: ignore[arg-type]
    ]
    tokens = 2048
    assert kept[0] - kept[1] >= 2 * tokens * (2 * 4096 + 14336)


def test_ia3_trains_a_vector_beside_each_map() -> None:
    """Keys and values have 1024 outputs, the ffn's last map 14336 inputs; PEFT's choice of maps is the mapping's."""
    assert trainable_params(MODEL, TrainJob(method="ia3")) == 32 * (2 * 1024 + 14336)


@pytest.mark.slow
def test_targets_of_ia3_are_peft_s() -> None:
    """Both mappings of the installed PEFT, for the models that oomph plays."""
    from peft.utils import constants

    targets = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    feedforward = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    assert {name: tuple(targets[name]) for name in IA3_TARGETS} == IA3_TARGETS
    assert {name: tuple(feedforward[name]) for name in FEEDFORWARD} == FEEDFORWARD


def test_dora_on_a_gptq_base_is_refused() -> None:
    """As PEFT refuses it; nor is it played on 8 bits."""
    for name in ("gptq-4bit-g128", "int8"):
        with pytest.raises(UnsupportedError, match="no DoRA"):
            adapted(MODEL, TrainJob(method="dora", quantization=name))  # type: ignore[arg-type]
