"""torchtune's recipes for one device: weights, adapters and states in bf16, layers checkpointed, chunked loss."""

from __future__ import annotations

from oomph.runtimes.base import Default, Defaults, Runtime, Versions


def defaults(versions: Versions) -> Defaults:
    """Return what its configs for one device say."""
    return {
        "precision": Default("bf16", "dtype is bf16"),
        "loss": Default("torchtune", "CEWithChunkedOutputLoss"),
        "hold_logits": Default(False, "the recipe deletes the logits before backward"),
        "checkpointing": Default("non-reentrant", "enable_activation_checkpointing is on"),
        "implementation": Default("fused", "its configs ask for fused AdamW"),
        "rank": Default(8, "lora_rank is 8"),
        "targets": Default("q_proj,v_proj", "lora_attn_modules"),
        "adapter_dtype": Default("base", "adapters are made in the recipe's dtype"),
    }


def quantised(versions: Versions) -> Defaults:
    """Return what is done with a quantised base."""
    return {"kbit_preparation": Default(False, "recipes make a base of NF4Tensors, and prepare nothing")}


RUNTIME = Runtime("torchtune", "torchtune", "torchtune 0.6.1, recipes/configs", defaults, quantised=quantised)
