"""LoRA on a base that GPTQ quantised: what is stored, and what auto_gptq's and GPTQModel's maps allocate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph import formats, weigh
from oomph.blocks.basic import Linear
from oomph.errors import UnsupportedError, UsageError
from oomph.explain import saved_tensors
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import trainable_params
from oomph.methods.gptq import quantised_linear
from oomph.methods.lora import LoraAutoGptq
from oomph.play import train_step
from oomph.steps import step
from oomph.tensor import Tensor
from tests.configs import LLAMA_3_8B
from tests.methods.recorded import played
from tests.referee import models
from tests.tape.grid import compare

MODEL = model_from_config(LLAMA_3_8B)
LORA = TrainJob(method="lora", rank=16, precision="fp16", autocast=True, quantization="gptq-4bit-g128")
CASES = json.loads((Path(__file__).parent / "gptq_events.json").read_text())["cases"]
INPUTS, OUTPUTS, GROUP, RANK, X = 64, 96, 32, 4, (2, 5, 64)  # of the recorded map


def stored(bits: int) -> dict[str, Tensor]:
    """The packed tensors of the recorded map."""
    shapes = {
        "qweight": (INPUTS * bits // 32, OUTPUTS), "qzeros": (INPUTS // GROUP, OUTPUTS * bits // 32),
        "scales": (INPUTS // GROUP, OUTPUTS), "g_idx": (INPUTS,),
    }  # fmt: skip
    return {name: Tensor(shape, "buffer", "fp16" if name == "scales" else "int32") for name, shape in shapes.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda one: "-".join(str(one[key]) for key in list(one)[:4]))
def test_a_map_allocates_what_auto_gptq_s_does(case: dict[str, Any]) -> None:
    """Every allocation and free of forward and backward, as recorded from the real classes of auto_gptq and PEFT."""
    job = replace(LORA, gptq_kernel=case["kernel"], quantization=f"gptq-{case['bits']}bit-g32")
    base = quantised_linear(Linear(INPUTS, OUTPUTS, case["bias"]), stored(case["bits"]), job)
    block = LoraAutoGptq(base, INPUTS, OUTPUTS, RANK, 0.0, "fp32")
    found = played(block, "fp16", X, "fp16", "fp16" if case["autocast"] else None)
    assert found == (case["sizes"], case["events"])


@pytest.mark.parametrize("name", ["gptq-4bit-g128", "gptq-8bit-column"])
def test_the_base_is_what_its_format_stores(name: str) -> None:
    """Codes, zero points, scales and groups come from formats/; embedding, head and norms stay in fp16."""
    for prepared in (False, True):  # PEFT's preparation casts nothing of a GPTQ model
        job = replace(LORA, quantization=name, kbit_preparation=prepared)  # type: ignore[arg-type]
        rounded = sum(
            -(-n_bytes // 512) * 512 * copies
            for n_bytes, copies in weigh.in_format(MODEL, replace(formats.get(name), rest="fp16")).tensors
        )
        played = train_step(MODEL, job)
        assert played.kept("parameter", played.start) - 4 * trainable_params(MODEL, job) == rounded


def test_kernels_differ_in_what_a_layer_keeps() -> None:
    """torch's product keeps a layer's 218 million unpacked weights in fp16, an autograd function none of them."""
    kernels: tuple[Any, ...] = ("cuda-old", "triton")
    old, own = (saved_tensors(MODEL, replace(LORA, gptq_kernel=kernel)).row_bytes for kernel in kernels)
    assert old - own == 2 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096)


@pytest.mark.parametrize("kernel", ["gptqmodel", "triton", "cuda-old"])
@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant"])
def test_a_folded_step_equals_one_played_in_full(kernel: Any, checkpointing: Any) -> None:
    """One recipe holds for all depths and ranks."""
    job = replace(LORA, gptq_kernel=kernel, checkpointing=checkpointing, adapter_dropout=0.1)
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "options"),
    [
        (models.LLAMA, {"autocast": False, "checkpointing": "non-reentrant", "padding": True, "adapter_dropout": 0.1}),
        (models.GPT2, {"precision": "amp-bf16", "autocast": False, "targets": "c_attn,c_fc"}),
        (models.QWEN2, {"precision": "bf16", "autocast": False, "checkpointing": "reentrant", "targets": "all-linear"}),
    ],
    ids=["llama", "gpt2", "qwen2"],
)
def test_the_step_of_real_peft_is_the_same(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """PEFT's own adapters around what stands in for GPTQModel's maps, event by event, a later step."""
    job = replace(LORA, **{"quantization": "gptq-4bit-g32", "batch": 2, "seq_len": 9, **options})
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.slow
def test_a_trace_of_auto_gptq_is_refused() -> None:
    """It runs with no PEFT or transformers of today."""
    from oomph.referee.trace import trace

    with pytest.raises(UnsupportedError, match="auto_gptq"):
        trace(models.LLAMA, replace(LORA, batch=1, seq_len=8, gptq_kernel="triton"))


def test_what_does_not_go_together_is_refused() -> None:
    """auto_gptq's kernels compute in fp16; codes do not train."""
    with pytest.raises(UsageError, match="computes in fp16"):
        replace(LORA, precision="bf16", gptq_kernel="triton")
    with pytest.raises(UsageError, match="do not train"):
        TrainJob(quantization="gptq-4bit-g128")
