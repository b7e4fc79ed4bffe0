"""Experts that are stacked in one parameter: packed by bitsandbytes, with adapters beside attention."""

from __future__ import annotations

import random
from typing import Any

import pytest

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import trainable_params
from oomph.methods.targets import attention_maps
from oomph.play import train_step
from oomph.sources import catalogue
from oomph.steps import step
from oomph.units import GIB
from tests.referee import models
from tests.tape.grid import compare
from tests.tape.mixtures import CONFIGS

MIXTRAL = model_from_config(models.MIXTRAL)
PACKED: dict[str, Any] = {
    "method": "lora", "targets": "q_proj,v_proj", "quantization": "nf4-dq", "quantised_experts": True,
}  # fmt: skip
GPT_OSS = {**models.MIXTRAL, "model_type": "gpt_oss", "head_dim": 32}
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (models.MIXTRAL, {"experts": "batched_mm", "quantization": "fp4"}),
    (models.MIXTRAL, {"precision": "amp-bf16", "checkpointing": "reentrant", "kbit_preparation": True}),
    (models.QWEN3_MOE, {"checkpointing": "non-reentrant", "kbit_preparation": True, "accumulation": 2}),
    (GPT_OSS, {"quantization": "nf4"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "options"), CASES, ids=[f"{at}-{raw['model_type']}" for at, (raw, _) in enumerate(CASES)]
)
def test_every_event_of_packed_experts_equals_the_trace(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """bitsandbytes' own parametrization: unpacked at first use, kept with the graph, unpacked again when recomputed."""
    parting, ours, theirs = compare(raw, TrainJob(2, 37, **{**PACKED, **options}))
    assert parting is None, str(parting)
    assert ours == theirs


def mixtral_8x7b(**options: Any) -> int:
    """Bytes that stay in a step of Mixtral-8x7B on a packed base."""
    found = catalogue.find("mixtral-8x7b-v0.1")
    assert found is not None
    assert found.config is not None
    return step(model_from_config(found.config), TrainJob(**{**PACKED, **options})).resident


def test_packed_experts_take_a_quarter() -> None:
    """45.1 billion weights of experts at 2 bytes, or half a byte and their scales (one byte per 64, 4 per 16384)."""
    experts = 32 * 8 * 3 * 14336 * 4096
    plain, packed = mixtral_8x7b(quantised_experts=False), mixtral_8x7b()
    assert plain / GIB > 84
    tables = 512 + 1024 + 512  # bytes of code table, table of the scales' codes and offset, of each of two stacks
    assert plain - packed == experts * (2 - 1 / 2 - 1 / 64 - 4 / 16384) - 32 * 2 * tables


def test_a_folded_step_on_packed_experts_equals_one_played_in_full() -> None:
    """Prepared or not; a mixture is taken as transformers builds it also where sizes are expressions."""
    for prepared in (False, True):
        job = TrainJob(1, 64, **PACKED, kbit_preparation=prepared)
        assert step(MIXTRAL, job).peak == train_step(MIXTRAL, job).peak


def test_only_attention_trains() -> None:
    """Two maps of two layers, of rank 8: 192 and 64 wide beside 192."""
    assert trainable_params(MIXTRAL, TrainJob(**PACKED)) == 2 * 8 * (192 + 192 + 192 + 64)


def test_what_cannot_be_is_refused() -> None:
    """Experts packed beside a base that is not; adapters on stacked experts; PEFT's default for Mixtral."""
    with pytest.raises(UsageError, match="quantised_experts"):
        TrainJob(method="lora", quantised_experts=True)
    for options in ({}, {"kbit_preparation": True}):
        with pytest.raises(UnsupportedError, match="stacked experts"):
            step(MIXTRAL, TrainJob(1, 8, **{**PACKED, **options, "targets": "all-linear"}))
    with pytest.raises(UsageError, match="no default targets"):
        step(MIXTRAL, TrainJob(1, 8, method="lora"))


def test_samples_of_mixtures_pack() -> None:
    """Every family of the grid whose experts are stacked can be played on a packed base."""
    for name, config in CONFIGS.items():
        model = model_from_config(config(random.Random(name)))
        job = TrainJob(1, 8, **{**PACKED, "targets": attention_maps(model)})
        assert step(model, job).resident > 0
