"""VeRA against the real one: every event of a later step, and what its shared matrices weigh."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import UnsupportedError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import adapted, trainable_params
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.referee import models
from tests.tape.grid import compare

MODEL = model_from_config(LLAMA_3_8B)
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (models.LLAMA, {"targets": "all-linear", "adapter_dropout": 0.1, "checkpointing": "non-reentrant"}),
    (models.GPT2, {"precision": "amp-bf16", "targets": "c_attn,c_fc", "checkpointing": "reentrant", "steady": False}),
    (models.LLAMA, {"quantization": "nf4", "kbit_preparation": True, "accumulation": 2}),
    (models.QWEN2, {"adapter_dtype": "base", "targets": "k_proj,down_proj", "adapter_dropout": 0.1}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "options"), CASES)
def test_every_event_equals_the_trace(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """Allocations, frees, their order, peak, what is kept."""
    parting, ours, theirs = compare(raw, TrainJob(method="vera", batch=2, seq_len=9, rank=3, **options))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("options", [options for _, options in CASES], ids=str)
def test_a_folded_step_equals_one_played_in_full(options: dict[str, Any]) -> None:
    """One recipe holds for all depths."""
    job = TrainJob(method="vera", seq_len=64, **{**options, "targets": "all-linear"})
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


def test_two_vectors_train_for_each_map() -> None:
    """256 numbers between A and B and one for each of the 4096 queries and 1024 values, in 32 layers."""
    assert trainable_params(MODEL, TrainJob(method="vera", rank=256)) == 32 * (2 * 256 + 4096 + 1024)


def test_the_matrices_lie_there_once() -> None:
    """A is as wide as the widest input, B as the widest output of what is targeted, both in fp32."""
    played = train_step(MODEL, TrainJob(method="vera", rank=256, targets="q_proj,down_proj", seq_len=1))
    none = train_step(MODEL, TrainJob(method="lora", seq_len=1))
    assert played.kept("buffer") - none.kept("buffer") == 4 * 256 * (14336 + 4096)


def test_what_is_not_played_is_refused() -> None:
    """GPTQ bases and language heads."""
    for options in ({"quantization": "gptq-4bit-g128"}, {"targets": "lm_head"}):
        with pytest.raises(UnsupportedError, match="no VeRA"):
            adapted(MODEL, TrainJob(method="vera", **options))  # type: ignore[arg-type]
