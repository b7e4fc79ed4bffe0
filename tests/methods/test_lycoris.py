"""LoHa and LoKr against the real ones: every event of a step, and what a whole weight costs each call."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import OomphError
from oomph.explain import saved_tensors
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import adapted, trainable_params
from oomph.methods.lokr import factorization
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.referee import models
from tests.tape.grid import compare

MODEL = model_from_config(LLAMA_3_8B)
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (models.LLAMA, {"method": "loha", "targets": "all-linear", "checkpointing": "non-reentrant"}),
    (models.QWEN2, {"method": "loha", "precision": "amp-bf16", "checkpointing": "reentrant", "steady": False}),
    (models.LLAMA, {"method": "lokr", "targets": "all-linear", "checkpointing": "reentrant"}),
    (models.QWEN2, {"method": "lokr", "precision": "amp-fp16", "accumulation": 2}),
    (models.QWEN2, {"method": "lokr", "rank": 64, "adapter_dtype": "base"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "options"), CASES)
def test_every_event_equals_the_trace(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """Allocations, frees, their order, peak, what is kept."""
    parting, ours, theirs = compare(raw, TrainJob(**{"batch": 2, "seq_len": 9, "rank": 3, **options}))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("options", [options for _, options in CASES], ids=str)
def test_a_folded_step_equals_one_played_in_full(options: dict[str, Any]) -> None:
    """One recipe holds for all depths."""
    job = TrainJob(seq_len=64, **{**options, "targets": "default"})
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


def test_what_trains() -> None:
    """LoHa has twice what LoRA has; LoKr 64·64 and 8·(64+64) for queries, 32·64 and 8·(32+64) for values."""
    lora = trainable_params(MODEL, TrainJob(method="lora"))
    assert trainable_params(MODEL, TrainJob(method="loha")) == 2 * lora
    values = 32 * 64 + 8 * (32 + 64)
    assert trainable_params(MODEL, TrainJob(method="lokr")) == 32 * (64 * 64 + 8 * (64 + 64) + values)


@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_each_call_keeps_a_weight_as_large_as_the_map(method: Any) -> None:
    """4 bytes for each element of the weights of queries and values."""
    kept = [saved_tensors(MODEL, TrainJob(seq_len=1, method=name)).row_bytes for name in ("lora", method)]
    assert kept[1] - kept[0] >= 4 * (4096 * 4096 + 1024 * 4096) - 4 * 1024


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 127, 192, 331, 1024, 4096, 11008, 14336])
def test_sizes_are_split_as_peft_splits_them(size: int) -> None:
    """The same two factors."""
    from peft.tuners.lokr.layer import factorization as theirs

    assert factorization(size) == theirs(size)


@pytest.mark.parametrize("method", ["loha", "lokr"])
def test_what_peft_does_not_have_is_refused(method: Any) -> None:
    """Dropout, quantised bases, GPT-2's maps."""
    for model, options in (
        (MODEL, {"adapter_dropout": 0.1}),
        (MODEL, {"quantization": "nf4"}),
        (model_from_config(models.GPT2), {}),
    ):
        with pytest.raises(OomphError, match=method):
            adapted(model, TrainJob(method=method, **options))  # type: ignore[arg-type]
