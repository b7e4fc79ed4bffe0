"""OFT against the real one: every event of a step, and what a rotation of the input costs."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import OomphError
from oomph.explain import saved_tensors
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import adapted, trainable_params
from oomph.methods.oft import fitting
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.referee import models
from tests.tape.grid import compare

MODEL = model_from_config(LLAMA_3_8B)
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (models.LLAMA, {"targets": "q_proj,k_proj,up_proj", "block_size": 200, "checkpointing": "non-reentrant"}),
    (models.QWEN2, {"precision": "amp-bf16", "checkpointing": "reentrant", "block_size": 8, "steady": False}),
    (models.LLAMA, {"quantization": "nf4-dq", "kbit_preparation": True, "accumulation": 2}),
    (models.QWEN2, {"adapter_dtype": "base", "quantization": "int8", "autocast": True}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "options"), CASES)
def test_every_event_equals_the_trace(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """Allocations, frees, their order, peak, what is kept; one block as wide as the input among them."""
    parting, ours, theirs = compare(raw, TrainJob(**{"method": "oft", "batch": 2, "seq_len": 9, **options}))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("options", [options for _, options in CASES], ids=str)
def test_a_folded_step_equals_one_played_in_full(options: dict[str, Any]) -> None:
    """One recipe holds for all depths."""
    job = TrainJob(**{"method": "oft", "seq_len": 64, **options})
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


def test_what_trains() -> None:
    """128 blocks of 32 for queries and values, each with the 496 numbers above its diagonal; or as many as are said."""
    assert trainable_params(MODEL, TrainJob(method="oft")) == 32 * 2 * 128 * (32 * 31 // 2)
    assert trainable_params(MODEL, TrainJob(method="oft", block_size=64)) == 32 * 2 * 64 * (64 * 63 // 2)


def test_each_call_keeps_the_input_in_fp32() -> None:
    """4 bytes for each number that queries and values take, and the series of two rotations of 128 blocks."""
    few, many = (saved_tensors(MODEL, TrainJob(method="oft", seq_len=tokens)).row_bytes for tokens in (512, 1024))
    without = [
        saved_tensors(MODEL, TrainJob(method="oft", targets="q_proj", seq_len=tokens)).row_bytes
        for tokens in (512, 1024)
    ]
    assert (many - few) - (without[1] - without[0]) == 512 * 4 * 4096


@pytest.mark.slow
@pytest.mark.parametrize(("width", "wanted"), [(4096, 32), (11008, 48), (331, 32), (192, 200), (320, 30), (64, 23)])
def test_blocks_are_fitted_as_peft_fits_them(width: int, wanted: int) -> None:
    """The nearest divisor, the smaller one of two."""
    from peft.tuners.oft.layer import OFTLayer

    theirs = wanted if width % wanted == 0 else OFTLayer.adjust_oft_parameters(None, width, wanted)
    assert fitting(width, wanted) == theirs


@pytest.mark.parametrize(
    ("raw", "options", "why"),
    [
        (models.GPT2, {}, "GPT-2's maps"),
        (models.LLAMA, {"quantization": "gptq-4bit-g32"}, "GPTQ base"),
        (models.LLAMA, {"targets": "down_proj"}, "blocks 1 wide"),
    ],
)
def test_what_there_is_none_of_is_refused(raw: dict[str, Any], options: dict[str, Any], why: str) -> None:
    """GPT-2's maps, GPTQ, and widths that no block divides."""
    with pytest.raises(OomphError, match=why):
        adapted(model_from_config(raw), TrainJob(method="oft", **options))
