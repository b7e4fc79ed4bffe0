"""LoRA on a base that AWQ quantised: what is stored, and what AutoAWQ's map allocates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph import formats, weigh
from oomph.blocks.basic import Linear
from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import trainable_params
from oomph.methods.awq import quantised_linear
from oomph.methods.lora import LoraAwq
from oomph.play import train_step
from oomph.steps import step
from oomph.tensor import Tensor
from tests.configs import LLAMA_3_8B
from tests.methods.recorded import played
from tests.referee import models

MODEL = model_from_config(LLAMA_3_8B)
LORA = TrainJob(method="lora", rank=16, precision="fp16", quantization="awq")
RECORDED = json.loads((Path(__file__).parent / "awq_events.json").read_text())
INPUTS, OUTPUTS, GROUP, RANK = (RECORDED["map"][name] for name in ("inputs", "outputs", "group", "rank"))
DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
STORED = {
    "qweight": Tensor((INPUTS, OUTPUTS // 8), "buffer", "int32"),
    "qzeros": Tensor((INPUTS // GROUP, OUTPUTS // 8), "buffer", "int32"),
    "scales": Tensor((INPUTS // GROUP, OUTPUTS), "buffer", "fp16"),
}


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda one: "-".join(str(one[key]) for key in list(one)[:4]))
def test_a_map_allocates_what_autoawq_s_does(case: dict[str, Any]) -> None:
    """Every allocation and free of forward and backward, as recorded from the real classes of AutoAWQ and PEFT."""
    base = quantised_linear(Linear(INPUTS, OUTPUTS, case["bias"]), STORED, LORA)
    block = LoraAwq(base, INPUTS, OUTPUTS, RANK, 0.0, "fp32")
    found = played(block, "fp16", case["x"], DTYPES[case["dtype"]], "fp16" if case["autocast"] else None)
    assert found == (case["sizes"], case["events"])


def test_the_base_is_what_its_format_stores() -> None:
    """Codes, zeros and scales come from formats/; embedding, head and norms stay in fp16."""
    rounded = sum(
        -(-n_bytes // 512) * 512 * copies
        for n_bytes, copies in weigh.in_format(MODEL, replace(formats.get("awq"), rest="fp16")).tensors
    )
    played = train_step(MODEL, LORA)
    assert played.kept("parameter", played.start) - 4 * trainable_params(MODEL, LORA) == rounded


def test_backward_makes_a_weight_for_each_sequence() -> None:
    """With four sequences the largest map's weight lies there five times in fp16, with one twice, beside gradients."""
    one, four = (step(MODEL, replace(LORA, batch=batch, seq_len=16, checkpointing="reentrant")) for batch in (1, 4))
    assert four.peak - one.peak > 3 * 2 * 14336 * 4096


@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant"])
def test_a_folded_step_equals_one_played_in_full(checkpointing: Any) -> None:
    """One recipe holds for all depths and ranks."""
    job = replace(LORA, quantization="awq-g64", checkpointing=checkpointing, adapter_dropout=0.1, kbit_preparation=True)
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


def test_autocast_to_bf16_is_refused() -> None:
    """It would cast what the kernels need in fp16."""
    for options in ({"precision": "amp-bf16"}, {"precision": "bf16", "autocast": True}):
        with pytest.raises(UsageError, match="computes in fp16"):
            train_step(MODEL, replace(LORA, **options))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_trace_is_refused() -> None:
    """AutoAWQ runs with no transformers of today."""
    from oomph.referee.trace import trace

    with pytest.raises(UnsupportedError, match="AutoAWQ"):
        trace(models.LLAMA, replace(LORA, batch=1, seq_len=8))
