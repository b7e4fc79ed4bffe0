"""BOFT against the real one: every event of a step, and the squares that a rotation of the whole input costs."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import OomphError
from oomph.explain import saved_tensors
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import adapted, trainable_params
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.referee import models
from tests.tape.grid import compare

MODEL = model_from_config(LLAMA_3_8B)
QWEN2 = {**models.QWEN2, "intermediate_size": 320, "num_hidden_layers": 1}  # whole blocks
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (QWEN2, {"targets": "all-linear", "block_size": 8, "checkpointing": "reentrant"}),
    (QWEN2, {"precision": "amp-bf16", "checkpointing": "non-reentrant", "accumulation": 2}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "options"), CASES)
def test_every_event_equals_the_trace(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """Allocations, frees, their order, peak, what is kept."""
    parting, ours, theirs = compare(raw, TrainJob(**{"method": "boft", "batch": 2, "seq_len": 9, **options}))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("options", [options for _, options in CASES], ids=str)
def test_a_folded_step_equals_one_played_in_full(options: dict[str, Any]) -> None:
    """One recipe holds for all depths."""
    job = TrainJob(**{"method": "boft", "seq_len": 64, **options})
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


def test_what_trains() -> None:
    """Blocks of 4 by 4 along the 4096 inputs of queries and values, and a scale for each output."""
    assert trainable_params(MODEL, TrainJob(method="boft")) == 32 * (2 * 4096 * 4 + 4096 + 1024)


def test_each_call_keeps_squares_as_wide_as_the_input() -> None:
    """An identity, a permutation and the rotation, in bf16, for queries and for values: what no token count changes."""
    kept = saved_tensors(MODEL, TrainJob(method="boft", seq_len=1)).row_bytes
    assert kept >= 2 * 3 * 2 * 4096 * 4096


@pytest.mark.parametrize(
    ("raw", "options", "why"),
    [
        (models.GPT2, {}, "plain linear"),
        (models.LLAMA, {"quantization": "nf4"}, "plain linear"),
        (models.LLAMA, {"targets": "down_proj"}, "no blocks of 4 of 331"),
        (models.LLAMA, {"adapter_dtype": "base"}, "fp32 alone"),
        (models.LLAMA, {"adapter_dropout": 0.1}, "no dropout"),
    ],
)
def test_what_there_is_none_of_is_refused(raw: dict[str, Any], options: dict[str, Any], why: str) -> None:
    """GPT-2's maps, quantised bases, widths that are no whole number of blocks, other dtypes, dropout."""
    with pytest.raises(OomphError, match=why):
        adapted(model_from_config(raw), TrainJob(method="boft", **options))
