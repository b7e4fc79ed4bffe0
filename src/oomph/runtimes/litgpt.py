"""LitGPT's recipes on one GPU: weights, adapters and states in bf16 (bf16-true), nothing checkpointed, no mask."""

from __future__ import annotations

from oomph.runtimes.base import Default, Defaults, Runtime, Versions


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of `litgpt finetune_full` and `finetune_lora` on one device."""
    return {
        "precision": Default("bf16", "precision is bf16-true"),
        "loss": Default("litgpt", "chunked_cross_entropy"),
        "hold_logits": Default(True, "the variable `logits` lives through backward"),
        "implementation": Default("foreach", "torch.optim.AdamW takes foreach on a GPU"),
        "rank": Default(8, "lora_r is 8"),
        "targets": Default("q_proj,v_proj", "lora_query and lora_value are on"),
        "adapter_dtype": Default("base", "bf16-true makes adapters bf16"),
        "adapter_dropout": Default(0.05, "lora_dropout is 0.05"),
    }


RUNTIME = Runtime(
    "litgpt",
    "LitGPT",
    "litgpt 0.5.13, finetune/lora.py, finetune/full.py",
    defaults,
    {"hidden_act": {"gelu_new": "gelu_pytorch_tanh"}},  # one kernel: GptNeoxMLP calls functional.gelu
)
