"""ms-swift: the Trainer under autocast over 16-bit weights, layers checkpointed."""

from __future__ import annotations

from oomph.runtimes import trainer
from oomph.runtimes.base import Default, Defaults, Runtime, Versions

ASKS_SINCE = (4, 37)  # transformers whose classes themselves ask for reentrant checkpointing


def checkpointing(versions: Versions) -> str:
    """Return the way of checkpointing: ms-swift puts torch's function in its place that is not reentrant, from torch
    2.1 on (llm/utils/model.py, fix_gradient_checkpointing_warning); what a class asks for itself counts more.
    """
    replaced = versions.at_least("torch", 2, 1) and not versions.at_least("transformers", *ASKS_SINCE)
    return "non-reentrant" if replaced else trainer.checkpointing(versions)


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of `swift sft`."""
    return {
        **trainer.defaults(versions),
        "precision": Default("bf16", "weights are loaded in bf16"),
        "autocast": Default(True, "bf16 is on as well, so all runs under autocast"),
        "fp32_outputs": Default(True, "accelerate returns fp32 logits under mixed precision"),
        "checkpointing": Default(checkpointing(versions), "gradient_checkpointing is on"),
        "use_cache": Default(False, "checkpointing switches it off"),
        "adapter_dtype": Default("base", "lora_dtype AUTO: as the weights"),
        "rank": Default(8, "lora_rank is 8"),
        "adapter_dropout": Default(0.05, "lora_dropout is 0.05"),
        "long_samples": Default("drop", "truncation_strategy is delete"),
    }


def packed(versions: Versions, attention: str) -> Defaults:
    """Return how packed rows come: `packing` switches padding_free on (ms-swift 4.6, arguments/sft_args.py)."""
    return {"padding_free": Default(True, "packing switches padding_free on")}


RUNTIME = Runtime("swift", "ms-swift", "ms-swift, llm/utils/argument.py", defaults, packed=packed)
