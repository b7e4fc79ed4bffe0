"""Experts that are stacked in one parameter: packed by bitsandbytes, or with adapters of their own."""

from __future__ import annotations

import random
from typing import Any

import pytest

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import trainable_params
from oomph.methods.parameters import NAMES
from oomph.methods.targets import attention_maps
from oomph.play import train_step
from oomph.programs import PROGRAMS
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
ALL: dict[str, Any] = {"method": "lora", "targets": "all-linear"}
GPT_OSS = {**models.MIXTRAL, "model_type": "gpt_oss", "head_dim": 32}
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (models.MIXTRAL, {"experts": "batched_mm", "quantization": "fp4"}),
    (models.MIXTRAL, {"precision": "amp-bf16", "checkpointing": "reentrant", "kbit_preparation": True}),
    (models.QWEN3_MOE, {"checkpointing": "non-reentrant", "kbit_preparation": True, "accumulation": 2}),
    (GPT_OSS, {"quantization": "nf4"}),
]
DEEPSEEK = {**CONFIGS["deepseek_v3"](random.Random(4)), "first_k_dense_replace": 1, "num_hidden_layers": 2}
ADAPTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (models.MIXTRAL, {"targets": "q_proj,w2", "experts": "batched_mm", "optimizer": "sgd"}),
    (models.MIXTRAL, {"adapter_dtype": "base", "checkpointing": "reentrant"}),
    (models.QWEN3_MOE, {"precision": "amp-bf16", "accumulation": 2, "checkpointing": "non-reentrant"}),
    (models.QWEN3_MOE, {**PACKED, "targets": "all-linear", "kbit_preparation": True, "adapter_dtype": "base"}),
    (DEEPSEEK, {"quantization": "nf4", "kbit_preparation": True, "checkpointing": "reentrant"}),
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "options"), ADAPTED, ids=[f"{at}-{raw['model_type']}" for at, (raw, _) in enumerate(ADAPTED)]
)
def test_every_event_of_adapters_on_experts_equals_the_trace(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """PEFT's ParamWrapper around experts and routers: weights made anew in each pass, with a gradient of their own."""
    parting, ours, theirs = compare(raw, TrainJob(2, 37, **{**ALL, **options}))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize(
    "raw", [models.MIXTRAL, models.QWEN3_MOE, GPT_OSS, DEEPSEEK], ids=lambda raw: raw["model_type"]
)
def test_trainable_parameters_are_those_of_peft(raw: dict[str, Any]) -> None:
    """Where PEFT translates names, experts and routers get adapters, and dense and shared ones lose theirs."""
    from oomph.referee.models import build

    job = TrainJob(rank=3, **ALL)
    assert trainable_params(model_from_config(raw), job) == build(raw, job).get_nb_trainable_parameters()[0]


def test_dora_on_stacked_experts_is_refused() -> None:
    """PEFT: ParamWrapper does not work with use_dora=True; maps of attention take it."""
    model = model_from_config(models.MIXTRAL)
    with pytest.raises(UsageError, match="do not work with DoRA"):
        step(model, TrainJob(1, 8, method="dora", targets="all-linear"))
    assert step(model, TrainJob(1, 8, method="dora", targets="q_proj,v_proj")).peak


def test_oft_on_what_reads_tokens_without_their_batch_is_refused() -> None:
    """Shared experts of DeepSeek read them so; maps of attention take it."""
    model = model_from_config(DEEPSEEK)
    with pytest.raises(UnsupportedError, match="without their batch"):
        step(model, TrainJob(1, 8, method="oft", block_size=4, targets="all-linear"))


@pytest.mark.slow
def test_translated_names_are_peft_s() -> None:
    """The mappings of the installed PEFT and transformers, for the models that oomph plays."""
    from peft.utils import transformers_weight_conversion as theirs

    for name in PROGRAMS:
        names = theirs._MOE_TARGET_MODULE_MAPPING.get(theirs._MODEL_TO_CONVERSION_PATTERN.get(name, ""), {})
        into = [old for old, new in names.items() if new == "gate_up_proj"]
        out = [old for old, new in names.items() if new == "down_proj"]
        assert NAMES.get(name, ()) == (*into, *out)


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
    """Experts packed beside a base that is not; dropout on a parameter; half of what is one tensor."""
    with pytest.raises(UsageError, match="quantised_experts"):
        TrainJob(method="lora", quantised_experts=True)
    for options, says in (
        ({"targets": "w1,w2"}, "w1 without w3"),
        ({"targets": "w2", "adapter_dropout": 0.1}, "no dropout"),
    ):
        with pytest.raises(UsageError, match=says):
            step(MIXTRAL, TrainJob(1, 8, method="lora", **options))


@pytest.mark.parametrize("options", [{}, {"quantization": "nf4", "kbit_preparation": True}, {"targets": "w2"}], ids=str)
def test_a_folded_step_with_adapters_on_experts_equals_one_played_in_full(options: dict[str, Any]) -> None:
    """Ranks times experts are expressions too."""
    job = TrainJob(1, 64, rank=3, **{**ALL, **options})
    model = model_from_config({**models.MIXTRAL, "num_hidden_layers": 5})
    folded = step(model, job)
    assert folded.folded
    assert folded.peak == train_step(model, job).peak


def test_samples_of_mixtures_pack() -> None:
    """Every family of the grid whose experts are stacked can be played on a packed base."""
    for name, config in CONFIGS.items():
        model = model_from_config(config(random.Random(name)))
        job = TrainJob(1, 8, **{**PACKED, "targets": attention_maps(model)})
        assert step(model, job).resident > 0
