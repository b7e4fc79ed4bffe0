"""Unsloth: FastLanguageModel, get_peft_model and TRL's SFTTrainer as it patches them."""

from __future__ import annotations

from oomph.runtimes import trainer
from oomph.runtimes.base import Default, Defaults, Runtime, Versions

OWN_LOSS_SINCE = (2025, 8)  # before, Apple's kernel above 1024 tokens, and its own of 16-bit logits up to there
CUT_SINCE = (2024, 11)


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of FastLanguageModel's functions and of the SFTConfig that Unsloth writes.

    Up to 2024.10 all logits exist, in 16 bit, under Unsloth's kernel. From 2024.11 to 2025.7 that is so up to 1024
    tokens; above, Apple's kernel makes none. The loss since then, compiled and in chunks by what is free, gave way to
    the one played here during 2026.
    """
    own = versions.at_least("unsloth", *OWN_LOSS_SINCE)
    cut = versions.at_least("unsloth", *CUT_SINCE)
    return {
        **{name: trainer.defaults(versions)[name] for name in ("clip_gradients", "hold_logits")},
        "seq_len": Default(2048, "max_seq_length is 2048"),
        "method": Default("qlora", "load_in_4bit is True: nf4, double quantisation"),
        "rank": Default(16, "r is 16"),
        "targets": Default("all-linear", "target_modules are the seven maps of a layer"),
        "adapter_dtype": Default("fp32", "prepare_model_for_kbit_training makes adapters fp32, and nothing else"),
        "autocast": Default(True, "the trainer runs in bf16 or fp16"),
        "use_cache": Default(False, "a model in training keeps none"),
        "kernels": Default("unsloth", "its own forward pass and kernels"),
        "checkpointing": Default("unsloth", "use_gradient_checkpointing is 'unsloth'"),
        "loss": Default(
            "unsloth" if own else "cut" if cut else "unsloth-2024",
            "unsloth_fused_ce_loss" if own else "fused_linear_cross_entropy" if cut else "fast_cross_entropy_loss",
        ),
        "optimizer": Default("adamw_8bit", "optim is adamw_8bit"),
        "accumulation": Default(2, "gradient_accumulation_steps is 2"),
    }


RUNTIME = Runtime(
    "unsloth",
    "Unsloth's FastLanguageModel under TRL's SFTTrainer",
    "unsloth 2026.10.9, models/llama.py, models/rl.py; unsloth_zoo, training_utils.py",
    defaults,
)
