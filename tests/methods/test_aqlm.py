"""LoRA on a base that AQLM quantised: what is stored, and what its map allocates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph import formats, weigh
from oomph.blocks.basic import Linear
from oomph.errors import OomphError
from oomph.families import model_from_config
from oomph.formats.aqlm import Aqlm
from oomph.formats.linear import Matrix
from oomph.job import InferJob, TrainJob
from oomph.methods import trainable_params
from oomph.methods.aqlm import quantised_linear
from oomph.methods.lora import LoraAqlm
from oomph.play import train_step
from oomph.play_infer import infer
from oomph.steps import step
from oomph.tensor import Tensor
from tests.configs import LLAMA_3_8B
from tests.methods.recorded import played
from tests.referee import models

MODEL = model_from_config(LLAMA_3_8B)
LORA = TrainJob(method="lora", rank=16, precision="fp16", quantization="aqlm-1x16")
RECORDED = json.loads((Path(__file__).parent / "aqlm_events.json").read_text())
INPUTS, OUTPUTS, GROUP, RANK = (RECORDED["map"][name] for name in ("inputs", "outputs", "group", "rank"))
DTYPES = {"float16": "fp16", "bfloat16": "bf16"}


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda one: "-".join(str(one[key]) for key in list(one)[:5]))
def test_a_map_allocates_what_aqlm_s_does(case: dict[str, Any]) -> None:
    """Every allocation and free of forward and backward, as recorded from the real classes of AQLM and PEFT."""
    dtype = DTYPES[case["dtype"]]
    matrix = Matrix("q_proj", OUTPUTS, INPUTS, 1, dtype)
    parts = Aqlm(case["books"], case["bits"], GROUP).tensors(matrix)
    stored = {one.name.rpartition(".")[2]: Tensor(one.shape, "buffer", one.dtype, trains=False) for one in parts}
    base = quantised_linear(Linear(INPUTS, OUTPUTS), stored, LORA)
    block = LoraAqlm(base, INPUTS, OUTPUTS, RANK, 0.0, "fp32")
    found = played(block, dtype, case["x"], dtype, dtype if case["autocast"] else None)
    assert found == (case["sizes"], case["events"])


def test_the_base_is_what_its_format_stores() -> None:
    """Codes, codebooks and scales come from formats/; embedding, head and norms stay as loaded, prepared or not."""
    rounded = sum(
        -(-n_bytes // 512) * 512 * copies
        for n_bytes, copies in weigh.in_format(MODEL, replace(formats.get("aqlm-1x16"), rest="fp16")).tensors
    )
    for prepared in (False, True):
        played = train_step(MODEL, replace(LORA, kbit_preparation=prepared, seq_len=16))
        assert played.kept("parameter", played.start) - 4 * trainable_params(MODEL, LORA) == rounded


@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant"])
def test_a_folded_step_equals_one_played_in_full(checkpointing: Any) -> None:
    """One recipe holds for all depths and ranks."""
    job = replace(LORA, quantization="aqlm-2x8", checkpointing=checkpointing, adapter_dropout=0.1)
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


def test_few_tokens_need_no_dense_weight() -> None:
    """One token is multiplied with codes as they are; eight unpack the head's neighbours, a whole matrix at a time."""
    one, many = (infer(MODEL, InferJob(seq_len=n, quantization="aqlm-1x16", precision="fp16")) for n in (1, 8))
    assert many.peak - one.peak > 2 * 14336 * 4096


@pytest.mark.parametrize(
    ("raw", "options", "said"),
    [
        (LLAMA_3_8B, {"precision": "amp-bf16"}, "in 16 bits"),
        (LLAMA_3_8B, {"seq_len": 4}, "more than 6 tokens"),
        (LLAMA_3_8B, {"method": "dora"}, "no DoRA on this base"),
        ({**models.QWEN2, "intermediate_size": 320}, {}, "adds a map's bias"),
    ],
)
def test_what_fails_is_refused(raw: dict[str, Any], options: dict[str, Any], said: str) -> None:
    """fp32 inputs, six tokens or fewer, adapters PEFT has none of, maps with a bias."""
    with pytest.raises(OomphError, match=said):
        train_step(model_from_config(raw), replace(LORA, **{"seq_len": 16, **options}))
