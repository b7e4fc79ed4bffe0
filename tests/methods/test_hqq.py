"""LoRA on a base that HQQ quantised: what is stored, and what unpacking a weight allocates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oomph import formats, weigh
from oomph.errors import OomphError
from oomph.explain import saved_tensors
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.methods import adapted, trainable_params
from oomph.play import train_step
from oomph.steps import step
from tests.configs import LLAMA_3_8B
from tests.referee import models
from tests.tape.grid import compare

MODEL = model_from_config(LLAMA_3_8B)
WIDE = {"intermediate_size": 320}  # whole groups
LLAMA, QWEN2 = {**models.LLAMA, **WIDE}, {**models.QWEN2, **WIDE}
LORA = TrainJob(method="lora", rank=16, quantization="hqq-4bit")
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (LLAMA, {"accumulation": 2, "adapter_dtype": "base", "quantization": "hqq-8bit"}),
    (
        QWEN2,
        {
            "quantization": "hqq-3bit",
            "precision": "amp-bf16",
            "checkpointing": "non-reentrant",
            "targets": "all-linear",
            "adapter_dropout": 0.1,
        },
    ),
    (
        QWEN2,
        {"quantization": "hqq-2bit-g32", "autocast": True, "checkpointing": "reentrant", "kbit_preparation": True},
    ),
    (QWEN2, {"quantization": "hqq-1bit", "precision": "fp32", "targets": "o_proj", "steady": False}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("raw", "options"), CASES)
def test_every_event_equals_the_trace(raw: dict[str, Any], options: dict[str, Any]) -> None:
    """HQQ's own maps with empty codes, PEFT's adapters around them: allocations, frees, their order, what is kept."""
    pytest.importorskip("hqq")
    parting, ours, theirs = compare(raw, replace(LORA, batch=2, seq_len=9, **options))
    assert parting is None, str(parting)
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_a_real_map_unpacks_to_what_is_played(bits: int) -> None:
    """Codes that hqq itself packed, on a CPU: their shapes, and the weight they become."""
    torch = pytest.importorskip("torch")
    core = pytest.importorskip("hqq.core.quantize")
    from oomph.formats.hqq import Hqq
    from oomph.formats.linear import Matrix

    linear = torch.nn.Linear(192, 320, bias=False)
    made = core.HQQLinear(
        linear, core.BaseQuantizeConfig(nbits=bits, group_size=64, axis=1), compute_dtype=torch.bfloat16, device="cpu"
    )
    sizes = {one.name[1:]: one.shape for one in Hqq(bits, 64).tensors(Matrix("", 320, 192, 1, "bf16"))}
    assert {"W_q": made.W_q.shape, "scale": made.meta["scale"].shape, "zero": made.meta["zero"].shape} == sizes
    assert made.dequantize().shape == (320, 192)


@pytest.mark.parametrize("options", [options for _, options in CASES], ids=str)
def test_a_folded_step_equals_one_played_in_full(options: dict[str, Any]) -> None:
    """One recipe holds for all depths and ranks."""
    job = replace(LORA, seq_len=64, **{**options, "targets": "default"})
    assert step(MODEL, job).folded
    assert step(MODEL, job).peak == train_step(MODEL, job).peak


@pytest.mark.parametrize("name", ["hqq-4bit", "hqq-3bit", "hqq-2bit-g128"])
def test_the_base_is_what_its_format_stores(name: Any) -> None:
    """Codes, scales and zeros come from formats/; embedding, head and norms stay in 16 bits, prepared or not."""
    for prepared in (False, True):
        job = replace(LORA, quantization=name, kbit_preparation=prepared)
        rounded = sum(
            -(-n_bytes // 512) * 512 * copies
            for n_bytes, copies in weigh.in_format(MODEL, replace(formats.get(name), rest="bf16")).tensors
        )
        played = train_step(MODEL, job)
        assert played.kept("parameter", played.start) - 4 * trainable_params(MODEL, job) == rounded


def test_inputs_are_kept_unlike_in_bitsandbytes() -> None:
    """Each map keeps what goes in: with LoRA on queries and values alone a layer's four different inputs, in bf16."""
    hqq, nf4 = (
        saved_tensors(MODEL, replace(LORA, quantization=name, seq_len=1024)).row_bytes for name in ("hqq-4bit", "nf4")
    )
    assert hqq - nf4 >= 2 * 1024 * (4096 + 4096)


@pytest.mark.parametrize("method", ["dora", "ia3", "vera", "loha", "oft", "adalora"])
def test_other_methods_are_refused(method: Any) -> None:
    """LoRA alone was held against PEFT."""
    with pytest.raises(OomphError):
        adapted(MODEL, replace(LORA, method=method))
