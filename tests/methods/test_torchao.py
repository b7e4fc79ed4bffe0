"""LoRA on a base that torchao quantised: what is stored, and how long what is dequantised lives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oomph import formats, weigh
from oomph.errors import OomphError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.methods import adapted, trainable_params
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.referee import models
from tests.tape.grid import compare

MODEL = model_from_config(LLAMA_3_8B)
LORA = TrainJob(batch=2, seq_len=9, method="lora", rank=16, quantization="torchao-int8")
FP8 = replace(LORA, quantization="torchao-fp8")
CASES: list[tuple[dict[str, Any], TrainJob | InferJob]] = [
    (models.LLAMA, replace(LORA, accumulation=2, adapter_dtype="base", targets="all-linear")),
    (models.QWEN2, replace(LORA, precision="amp-bf16", checkpointing="non-reentrant", adapter_dropout=0.1)),
    (models.QWEN2, replace(FP8, precision="amp-bf16", checkpointing="reentrant", kbit_preparation=True, steady=False)),
    (models.QWEN2, InferJob(2, 9, quantization="torchao-int8")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "job"), CASES, ids=str)
def test_every_event_equals_the_trace(raw: dict[str, Any], job: TrainJob | InferJob) -> None:
    """torchao's own tensors, PEFT's adapters around them: allocations, frees, their order, what is kept."""
    pytest.importorskip("torchao")
    parting, ours, theirs = compare(raw, job)
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.slow
def test_no_gradient_passes_a_map_whose_inputs_are_quantised() -> None:
    """Why int8 with dynamic activations is no base here: what trains below hears of the loss beside it alone."""
    torch = pytest.importorskip("torch")
    torchao = pytest.importorskip("torchao.quantization")
    linear = torch.nn.Linear(64, 32, bias=False).to(torch.bfloat16)
    torchao.quantize_(linear, torchao.Int8DynamicActivationInt8WeightConfig())
    assert not linear(torch.randn(5, 64, dtype=torch.bfloat16, requires_grad=True)).requires_grad


@pytest.mark.parametrize("job", [job for _, job in CASES if isinstance(job, TrainJob)], ids=str)
def test_a_folded_step_equals_one_played_in_full(job: TrainJob) -> None:
    """One recipe holds for all depths and ranks."""
    job = replace(job, seq_len=64, targets="default")
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


@pytest.mark.parametrize("job", [LORA, FP8], ids=["int8", "fp8"])
def test_the_base_is_what_its_format_stores(job: TrainJob) -> None:
    """Codes, scales and zeros come from formats/; embedding, head and norms stay in 16 bits, prepared or not."""
    for prepared in (False, True):
        rounded = sum(
            -(-n_bytes // 512) * 512 * copies
            for n_bytes, copies in weigh.in_format(MODEL, replace(formats.get(job.quantization), rest="bf16")).tensors
        )
        played = train_step(MODEL, replace(job, kbit_preparation=prepared))
        assert played.kept("parameter", played.start) - 4 * trainable_params(MODEL, job) == rounded


@pytest.mark.parametrize("job", [LORA, FP8], ids=["int8", "fp8"])
def test_without_checkpointing_every_map_is_there_in_16_bits_too(job: TrainJob) -> None:
    """Each product keeps the weight that it multiplied with until its gradient; of one layer where layers run again."""
    maps = sum(weight.numel for weight in MODEL.weights if weight.kind == "linear")
    plain, again = (step(MODEL, replace(job, checkpointing=way)).peak for way in ("none", "non-reentrant"))
    assert plain - again > 2 * maps * 30 / 32


@pytest.mark.parametrize("method", ["dora", "ia3", "vera", "loha", "oft", "adalora"])
def test_other_methods_are_refused(method: Any) -> None:
    """LoRA alone was held against PEFT."""
    with pytest.raises(OomphError):
        adapted(MODEL, replace(LORA, method=method))
