"""Virtual tokens before a sequence against the real PEFT: every event of a later step, and what they cost."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import OomphError
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
    (models.LLAMA, {"method": "prompt-tuning", "padding": True, "checkpointing": "non-reentrant"}),
    (models.GPT2, {"method": "prompt-tuning", "precision": "amp-bf16", "batch": 1, "steady": False}),
    (models.QWEN2, {"method": "prompt-tuning", "accumulation": 2, "use_cache": True}),
    (models.LLAMA, {"method": "p-tuning", "precision": "amp-bf16", "checkpointing": "reentrant"}),
    (models.GPT2, {"method": "p-tuning", "precision": "fp16", "padding": True}),
]
PREFIXED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (models.LLAMA, {"method": "prefix-tuning", "padding": True}),
    (models.GPT2, {"method": "prefix-tuning", "precision": "amp-bf16", "steady": False}),
    (models.QWEN3, {"method": "prefix-tuning", "padding": True, "attention": "eager"}),
    (models.QWEN2, {"method": "prefix-tuning", "precision": "fp32", "accumulation": 2, "use_cache": True}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "options"), [*CASES, *PREFIXED])
def test_every_event_equals_the_trace(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """Allocations, frees, their order, peak, what is kept."""
    parting, ours, theirs = compare(raw, TrainJob(**{"batch": 2, "seq_len": 9, "virtual_tokens": 5, **options}))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.parametrize("options", [options for _, options in CASES], ids=str)
def test_a_folded_step_equals_one_played_in_full(options: dict[str, Any]) -> None:
    """One recipe holds for all depths."""
    job = TrainJob(seq_len=64, **options)
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


def test_one_table_holds_the_prefixes_of_all_layers() -> None:
    """Keys and values of 8 heads of 128 numbers, for 20 tokens, in 32 layers; so no recipe holds for other depths."""
    job = TrainJob(method="prefix-tuning", seq_len=64)
    assert trainable_params(MODEL, job) == 20 * 32 * 2 * 8 * 128
    assert not step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


def test_a_table_trains_and_maps_that_make_it() -> None:
    """20 vectors of 4096 numbers; for p-tuning three maps of that width with biases."""
    table = 20 * 4096
    assert trainable_params(MODEL, TrainJob(method="prompt-tuning")) == table
    assert trainable_params(MODEL, TrainJob(method="p-tuning")) == table + 3 * (4096 * 4096 + 4096)


def test_virtual_tokens_cost_what_tokens_do() -> None:
    """99 more of them take at least the logits of 99 tokens."""
    few, many = (step(MODEL, TrainJob(method="prompt-tuning", seq_len=1948, virtual_tokens=n)) for n in (1, 100))
    logits = 2 * 128256  # bytes a token in bf16, the least of what it costs
    assert many.peak - few.peak > 99 * logits


def test_prefixes_with_checkpointing_or_windows_are_refused() -> None:
    """PEFT refuses the one; the other would need caches of two kinds."""
    with pytest.raises(OomphError, match="checkpointing"):
        adapted(MODEL, TrainJob(method="prefix-tuning", checkpointing="non-reentrant"))
    with pytest.raises(OomphError, match="sliding windows"):
        adapted(model_from_config(models.MISTRAL), TrainJob(method="prefix-tuning"))


@pytest.mark.parametrize(
    "options",
    [{"packing": True}, {"adapter_dtype": "base"}, {"quantization": "nf4"}, {"objective": "dpo"}, {"loss": "liger"}],
)
def test_what_is_not_played_is_refused(options: dict[str, Any]) -> None:
    """Packed rows, which PEFT ignores; bases, losses and objectives that were not held against it."""
    with pytest.raises(OomphError, match=r"prompt"):
        adapted(MODEL, TrainJob(method="prompt-tuning", **options))
