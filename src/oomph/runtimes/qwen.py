"""Qwen's first finetune.py: the Trainer under autocast over bf16 weights, with code that came with the model."""

from __future__ import annotations

from oomph.runtimes import trainer
from oomph.runtimes.base import Default, Defaults, Runtime, Versions


def defaults(versions: Versions) -> Defaults:
    """Return what its shell scripts and finetune.py say."""
    return {
        **trainer.defaults(versions),
        "precision": Default("bf16", "weights are loaded in bf16"),
        "autocast": Default(True, "--bf16 True, so all runs under autocast"),
        "fp32_outputs": Default(True, "accelerate returns fp32 logits under mixed precision"),
        "checkpointing": Default("reentrant", "--gradient_checkpointing, torch's default way then"),
        "use_cache": Default(False, "use_cache is set to False"),
        "rank": Default(64, "lora_r is 64"),
        "adapter_dropout": Default(0.05, "lora_dropout is 0.05"),
        "targets": Default("c_attn,c_proj,w1,w2", "lora_target_modules"),
        "adapter_dtype": Default("fp32", "PEFT 0.5 and before leave adapters in the dtype they are made in"),
        "loss": Default("shifted", "modeling_qwen.py shifts logits in their own dtype"),
    }


RUNTIME = Runtime("qwen", "Qwen's finetune.py", "QwenLM/Qwen, finetune.py and finetune/*.sh", defaults)
