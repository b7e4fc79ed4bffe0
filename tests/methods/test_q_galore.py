"""Q-GaLore's int8 weights: what they take, what its own scripts say of a model of 7B, what they do not go with.

Its code is held against the tape event by event in tests/optimizers/golden.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from oomph.answer import resolve
from oomph.devices import parse_gpus
from oomph.errors import OomphError
from oomph.families import model_from_config
from oomph.header import Source
from oomph.job import TrainJob
from oomph.job_ledger import job_ledger
from oomph.methods import trainable_params
from oomph.peak import by_group
from oomph.play import train_step
from oomph.steps import step
from tests.referee import models

LLAMA_7B: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32,
}  # fmt: skip
IN_MAPS = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
GROUP = 256
INT8: dict[str, Any] = {"optimizer": "q_galore_adamw8bit", "weight_quant": True, "optim_rank": 64}


@pytest.mark.parametrize(
    ("published_gib", "inputs"),
    [(15.08, {"batch": 1}), (15.26, {"batch": 16, "checkpointing": "reentrant"})],
)
def test_7b_trains_on_16_gib(published_gib: float, inputs: dict[str, Any]) -> None:
    """What its own scripts say of LLaMA-7B (scripts/single_gpu/llama_7b*.sh) lies between the point and the bound."""
    job = TrainJob(
        seq_len=256, optimizer="q_galore_adamw8bit_per_layer", weight_quant=True, optim_rank=1024, loss="shifted",
        hold_logits=False, **inputs,
    )  # fmt: skip
    ledger = job_ledger(resolve(Source("llama-7b", "config", LLAMA_7B)), job, parse_gpus("a6000"))
    device = next(one for one in ledger.figures if one.name == "device")
    assert device.n_bytes <= published_gib * 2**30 <= device.safe_bytes


def test_a_weight_is_a_byte_a_scale_and_a_zero() -> None:
    """One byte for two, and for 256 of them twice a number in 16 bits; all of them train."""
    model = model_from_config(LLAMA_7B)
    jobs = [TrainJob(1, 64, **{**INT8, "weight_quant": one}) for one in (False, True)]
    wide, int8 = (by_group(one, "weights")[one.begin][0] for one in (step(model, job) for job in jobs))
    assert wide - int8 == IN_MAPS - 2 * 2 * IN_MAPS // GROUP
    assert trainable_params(model, jobs[1]) == trainable_params(model, jobs[0])


@pytest.mark.parametrize(
    ("raw", "options", "words"),
    [
        (LLAMA_7B, {"method": "lora"}, "adapters"),
        (LLAMA_7B, {"precision": "amp-bf16"}, "autocast"),
        (LLAMA_7B, {"checkpointing": "non-reentrant"}, "which detaches weights"),
        (LLAMA_7B, {"optimizer": "adamw_8bit"}, "alone updates"),
        (LLAMA_7B, {"optimizer": "q_galore_adamw8bit_per_layer", "weight_quant": False}, "hooks of single layers"),
        (LLAMA_7B, {"optimizer_in_backward": True}, "q_galore_adamw8bit_per_layer is how"),
        (LLAMA_7B, {"set_to_none": False}, "small gradients"),
        (models.LLAMA, {}, "331 x 192 of model.layers.*.mlp.gate_proj"),
        (models.GPT2, {}, "no map to quantise"),
    ],
)
def test_what_is_not_played_is_refused(raw: dict[str, Any], options: dict[str, Any], words: str) -> None:
    """What its code fails on, what drops the scales of its weights, maps that it has not."""
    with pytest.raises(OomphError, match=words.replace("*", ".")):
        train_step(model_from_config(raw), TrainJob(1, 16, **{**INT8, **options}))
