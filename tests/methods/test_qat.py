"""Quantisation-aware training: torchao's fake quantisers in every linear map, event by event."""

from __future__ import annotations

from typing import Any

import pytest

from oomph.errors import OomphError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.play import train_step
from oomph.runtimes.config_file import read
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.referee import models
from tests.tape.grid import compare

MODEL = model_from_config(LLAMA_3_8B)
SMALL = {**models.LLAMA, "intermediate_size": 320, "num_hidden_layers": 1}  # whole groups of 32
JOBS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (SMALL, {"steady": False}),
    ({**SMALL, "model_type": "qwen2"}, {"precision": "fp32"}),
    ({**SMALL, "model_type": "olmo2", "tie_word_embeddings": True}, {"checkpointing": "reentrant"}),
    ({**SMALL, "model_type": "qwen3", "head_dim": 64}, {"accumulation": 2, "autocast": True}),
    (SMALL, {"precision": "amp-bf16", "clip_gradients": True}),
    ({**SMALL, "model_type": "phi3", "pad_token_id": 0}, {"checkpointing": "non-reentrant"}),
    ({**SMALL, "model_type": "mistral"}, {"method": "lisa", "active_layers": 1}),
]


def test_every_weight_is_kept_twice_more() -> None:
    """As rounded in 16 bits and as it was before it was bounded in fp32, and three numbers for each group of 32."""
    plain, rounded = (train_step(MODEL, TrainJob(seq_len=16, qat=qat)) for qat in ("none", "8da4w"))  # type: ignore[arg-type]
    maps = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096) + 128256 * 4096
    there = [one.live[one.forward_end] for one in (plain, rounded)]
    assert there[1] - there[0] == pytest.approx((6 + 3 * 4 / 32) * maps, rel=0.01)


@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant"])
def test_a_recipe_says_what_playing_in_full_does(checkpointing: Any) -> None:
    """Modules keep scales of their last call, layer by layer."""
    job = TrainJob(seq_len=64, checkpointing=checkpointing, qat="8da4w")
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


@pytest.mark.parametrize(
    ("raw", "options"),
    [
        (LLAMA_3_8B, {"method": "lora"}),
        (LLAMA_3_8B, {"kernels": "liger"}),
        (LLAMA_3_8B, {"loss": "liger"}),
        (models.LLAMA, {}),
        (models.GPT2, {}),
    ],
)
def test_what_is_not_played_is_refused(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """Adapters, kernels and losses that pass the maps by, no whole groups, other models."""
    with pytest.raises(OomphError, match=r"Fake quantisers|no whole number"):
        train_step(model_from_config(raw), TrainJob(seq_len=16, qat="8da4w", **options))


def test_axolotl_says_it_so() -> None:
    """Its qat section; dtypes that are not played are refused."""
    config = {"base_model": "x", "micro_batch_size": 1, "qat": {"activation_dtype": "int8", "weight_dtype": "int4"}}
    found = read(config, "a.yaml")
    assert (found.fields["qat"], found.unknown) == ("8da4w", ())
    with pytest.raises(OomphError, match="qat"):
        read({**config, "qat": {"activation_dtype": "int8", "weight_dtype": "int8"}}, "a.yaml")
    with pytest.raises(OomphError, match="qat"):
        read({**config, "qat": {"weight_dtype": "int4"}}, "a.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "inputs"), JOBS, ids=[f"{raw['model_type']}-{one}" for raw, one in JOBS])
def test_every_event_of_a_step_equals_the_trace(raw: dict[str, Any], inputs: dict[str, Any]) -> None:
    """torchao's own operations, the scales they leave on modules, and gradients through the clamp."""
    pytest.importorskip("torchao")
    parting, ours, theirs = compare(raw, TrainJob(1, 8, qat="8da4w", **inputs))
    assert parting is None, str(parting)
    assert ours == theirs
