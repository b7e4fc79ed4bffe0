"""Jobs with LLaMA-Factory's trainers whose events were recorded from its own code."""

from __future__ import annotations

from typing import Any

from oomph.job import TrainJob

LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 515, "num_hidden_layers": 1, "hidden_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 512,
}  # fmt: skip
TIED = LLAMA | {"tie_word_embeddings": True}
FIVE = LLAMA | {"num_hidden_layers": 5}
TWO = LLAMA | {"num_hidden_layers": 2}
AMP: dict[str, Any] = {"precision": "amp-bf16", "fp32_outputs": True, "checkpointing": "reentrant"}
LOW: dict[str, Any] = {"autocast": True, "fp32_outputs": True, "checkpointing": "reentrant"}
LORA: dict[str, Any] = {"method": "lora", "targets": "all-linear", "checkpointing": "reentrant"}


def factory(objective: str, batch: int = 2, seq_len: int = 37, **options: Any) -> TrainJob:
    """Return a job of one of LLaMA-Factory's trainers."""
    return TrainJob(batch, seq_len, **{"objective": objective, "objective_code": "llama-factory", **options})


def frozen_below(layers: int, **options: Any) -> TrainJob:
    """Return a job of freeze tuning."""
    return TrainJob(2, 37, method="freeze", active_layers=layers, **options)


FACTORY: dict[str, tuple[dict[str, Any], TrainJob]] = {
    "dpo": (LLAMA, factory("dpo", optimizer="none")),
    "dpo, loaded in bf16, amp": (TWO, factory("dpo", teacher_dtype="bf16", clip_gradients=True, **AMP)),
    "dpo, lora, one pair, padding, autocast": (TIED, factory("dpo", 1, padding=True, prompt_len=9, **(LORA | LOW))),
    "dpo, qlora, padding": (TIED, factory("dpo", quantization="nf4-dq", padding=True, **(LORA | LOW))),
    "ipo, lora, first step": (LLAMA, factory("ipo", steady=False, **LORA)),
    "orpo, three pairs": (LLAMA, factory("orpo", 3, accumulation=2)),
    "orpo, amp": (TWO, factory("orpo", padding=True, **AMP)),
    "simpo, tied, lora": (TIED, factory("simpo", padding=True, **LORA)),
    "kto, tied": (TIED, factory("kto", accumulation=2)),
    "kto, loaded in bf16, amp": (LLAMA, factory("kto", 4, teacher_dtype="bf16", **AMP)),
    "kto, lora, padding, autocast": (TIED, factory("kto", padding=True, prompt_len=7, **(LORA | LOW))),
    "reward": (LLAMA, factory("reward", optimizer="none")),
    "reward, two layers, padding, amp": (TWO, factory("reward", padding=True, **AMP)),
    "reward, tied, lora, autocast": (TIED, factory("reward", 1, accumulation=2, **(LORA | LOW))),
    "reward, tied, clipped": (TIED, factory("reward", 1, clip_gradients=True)),
    "dft, amp": (LLAMA, factory("dft", accumulation=2, **AMP)),
    "dft, prompt, padding": (LLAMA, factory("dft", 3, prompt_len=9, padding=True)),
    "dft, lora, autocast": (TIED, factory("dft", **(LORA | LOW))),
    "eaft, amp": (LLAMA, factory("eaft", accumulation=2, **AMP)),
    "eaft, prompt": (TIED, factory("eaft", 1, prompt_len=9)),
    "asft, loaded in bf16, amp": (TWO, factory("asft", teacher_dtype="bf16", **AMP)),
    "asft, tied, prompt, padding": (TIED, factory("asft", 1, prompt_len=9, padding=True)),
    "freeze": (FIVE, frozen_below(2, checkpointing="reentrant")),
    "freeze, tied, one layer, autocast": (FIVE | {"tie_word_embeddings": True}, frozen_below(1, **LOW)),
    "freeze, pure, clipped": (FIVE, frozen_below(3, adapter_dtype="base", clip_gradients=True)),
    "freeze, non-reentrant": (FIVE, frozen_below(2, checkpointing="non-reentrant")),
    "freeze, all layers": (TWO, frozen_below(2, checkpointing="reentrant")),
    "freeze, dpo, autocast": (FIVE, factory("dpo", method="freeze", optimizer="none", **LOW)),
}
