"""ms-swift: the Trainer under autocast over 16-bit weights, layers checkpointed."""

from __future__ import annotations

from oomph.runtimes import trainer
from oomph.runtimes.base import Default, Defaults, Runtime, Versions

FOUR = (5, 0)  # transformers from which on ms-swift is 4.x
CASTS_SINCE = (0, 12)  # PEFT that makes adapters fp32
ASKS_SINCE = (4, 37)  # transformers whose classes themselves ask for reentrant checkpointing


def checkpointing(versions: Versions) -> str:
    """Return the way of checkpointing: with 4.x, of one process, the reentrant one (swift/trainers/mixin.py,
    _fix_gradient_checkpointing). 2.x puts torch's function in its place that is not reentrant, from torch
    2.1 on (llm/utils/model.py, fix_gradient_checkpointing_warning); what a class asks for itself counts more.
    """
    if versions.at_least("transformers", *FOUR):
        return "reentrant"
    replaced = versions.at_least("torch", 2, 1) and not versions.at_least("transformers", *ASKS_SINCE)
    return "non-reentrant" if replaced else trainer.checkpointing(versions)


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of `swift sft`."""
    casts = versions.at_least("peft", *CASTS_SINCE)
    return {
        **trainer.defaults(versions),
        "precision": Default("bf16", "weights are loaded in bf16"),
        "autocast": Default(True, "bf16 is on as well, so all runs under autocast"),
        "fp32_outputs": Default(True, "accelerate returns fp32 logits under mixed precision"),
        "checkpointing": Default(checkpointing(versions), "gradient_checkpointing is on"),
        "use_cache": Default(False, "checkpointing switches it off"),
        "adapter_dtype": Default("fp32", "PEFT makes adapters fp32 unless lora_dtype is said")
        if casts
        else Default("base", "lora_dtype AUTO: as the weights"),
        "rank": Default(8, "lora_rank is 8"),
        "adapter_dropout": Default(0.05, "lora_dropout is 0.05"),
        "long_samples": Default("drop", "truncation_strategy is delete"),
        **(_of_four() if versions.at_least("transformers", *FOUR) else {}),
    }


def _of_four() -> Defaults:
    """Return what TunerArguments of 4.x say."""
    return {
        "method": Default("lora", "tuner_type is lora"),
        "targets": Default("all-linear", "target_modules is all-linear"),
        "freeze_vision": Default(True, "freeze_vit and freeze_aligner are True"),
    }


def quantised(versions: Versions) -> Defaults:
    """Return what 4.x does with a quantised base."""
    if not versions.at_least("transformers", *FOUR):
        return {}
    return {"kbit_preparation": Default(False, "nothing calls prepare_model_for_kbit_training")}


def packed(versions: Versions, attention: str) -> Defaults:
    """Return how packed rows come: `packing` switches padding_free on (ms-swift 4.6, arguments/sft_args.py)."""
    return {"padding_free": Default(True, "packing switches padding_free on")}


RUNTIME = Runtime("swift", "ms-swift", "ms-swift, swift/arguments", defaults, quantised=quantised, packed=packed)
