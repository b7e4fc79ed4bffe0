"""Every method on every quantised base under optimizers that look for matrices: an answer, or a refusal by name."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest

from oomph.errors import OomphError, UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.job_words import Method
from oomph.play import train_step
from tests.referee import models

SIZES = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 1, "tie_word_embeddings": False,
}  # fmt: skip
MODEL = model_from_config({**models.LLAMA, **SIZES})  # whole groups of every format
BASES = ("nf4-dq", "int8", "gptq-4bit-g128", "hqq-4bit", "awq", "aqlm-1x16", "torchao-int8", "torchao-fp8")
OPTIMIZERS = ("adamw", "galore_adamw", "muon")
UNSLOTH: dict[str, Any] = {"kernels": "unsloth", "attention": "flash", "targets": "all-linear"}


def plays(**options: Any) -> bool:
    """Tell whether a job is played; no other error than a refusal may come out."""
    try:
        train_step(MODEL, TrainJob(1, 8, **options))
    except OomphError:
        return False
    return True


@pytest.mark.parametrize("quantization", BASES)
def test_every_combination_is_played_or_refused_by_name(quantization: str) -> None:
    """Whichever maps have adapters, copies or fused kernels; LoRA is played on every base."""
    others: tuple[dict[str, Any], ...] = (
        {"targets": "all-linear"}, {"targets": "lm_head"}, {"modules_to_save": "q_proj"}, UNSLOTH,
    )  # fmt: skip
    played = {
        method
        for method, optimizer, options in product(get_args(Method), OPTIMIZERS, others)
        if plays(method=method, quantization=quantization, optimizer=optimizer, **options)
    }
    assert "lora" in played
    assert "full" not in played


@pytest.mark.parametrize("quantization", ["int8", "gptq-4bit-g128", "torchao-int8"])
def test_unsloth_s_kernels_take_4_bits_of_bitsandbytes_or_16(quantization: Any) -> None:
    """What else it takes, fp8 among it, is not played."""
    with pytest.raises(UsageError, match="Unsloth's kernels"):
        TrainJob(1, 8, method="lora", quantization=quantization, **UNSLOTH)


@pytest.mark.parametrize("quantization", BASES)
def test_a_quantised_map_has_no_copy_that_trains(quantization: Any) -> None:
    """Codes take no gradient."""
    job = TrainJob(1, 8, method="lora", quantization=quantization, targets="v_proj", modules_to_save="q_proj")
    with pytest.raises(UnsupportedError, match="quantised"):
        train_step(MODEL, job)


@pytest.mark.slow
def test_peft_fails_on_a_copy_of_a_quantised_map() -> None:
    """Why it is refused: PEFT's own words."""
    from oomph.referee.trace import trace

    job = TrainJob(1, 8, method="lora", quantization="nf4", targets="v_proj", modules_to_save="q_proj")
    with pytest.raises(RuntimeError, match="floating point dtype can require gradients"):
        trace({**models.LLAMA, **SIZES}, job)
