"""transformers' Trainer with accelerate beneath: what TrainingArguments and the model do by default."""

from __future__ import annotations

from typing import Any

from oomph.runtimes.base import Default, Defaults, Runtime, Versions

KEPT_SOFTMAX_INPUTS_BEFORE = (1, 11)  # torch: pytorch pull request 65242
DENOMINATORS_IN_PLACE_SINCE = (2, 1)  # torch: torch/optim/adamw.py, _multi_tensor_adamw
NO_CACHE_SINCE = (5, 0)  # transformers whose Trainer gives a model its own use_cache
FUSED_SINCE = (2, 8)  # torch from which on the default optimizer is adamw_torch_fused


def model_loss(versions: Versions) -> str:
    """Return what transformers of a version computes after the last hidden state.

    >>> model_loss(Versions()), model_loss(Versions.found_in("transformers 4.48.1"))
    ('hf', 'hf-4.46')
    """
    if versions.at_least("transformers", 4, 50):
        return "hf"
    return "hf-4.46" if versions.at_least("transformers", 4, 46) else "hf-4.45"


def checkpointing(versions: Versions) -> str:
    """Return which way of checkpointing `gradient_checkpointing=True` is: reentrant before transformers 5."""
    return "non-reentrant" if versions.at_least("transformers", 5) else "reentrant"


def use_cache(checkpointed: str) -> bool:
    """Tell whether a model in training keeps a cache: as its config says, unless layers are checkpointed."""
    return checkpointed == "none"


def mixed(precision: str, weights: str) -> dict[str, Any]:
    """Return the fields for `bf16=True` or `fp16=True` over weights of a dtype: accelerate's autocast, fp32 logits.

    >>> mixed("bf16", "fp32"), mixed("bf16", "bf16")
    ({'precision': 'amp-bf16', 'fp32_outputs': True}, {'precision': 'bf16', 'autocast': True, 'fp32_outputs': True})
    """
    if weights == "fp32":
        return {"precision": f"amp-{precision}", "fp32_outputs": True}
    return {"precision": weights, "autocast": True, "fp32_outputs": True}


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of TrainingArguments and of the Trainer's loop."""
    way = (
        "fused" if versions.at_least("torch", *FUSED_SINCE) else "foreach" if versions.at_least("torch", 2) else "loop"
    )
    kept = {} if versions.at_least("torch", 2) else {"set_to_none": Default(False, "torch before 2.0 fills with zeros")}
    if not versions.at_least("torch", *KEPT_SOFTMAX_INPUTS_BEFORE):
        kept["keeps_softmax_inputs"] = Default(True, "torch before 1.11 keeps what goes into a softmax")
    if (2, 0) <= versions.of("torch") < DENOMINATORS_IN_PLACE_SINCE:
        kept["denominators_apart"] = Default(True, "AdamW of torch 2.0 adds epsilon out of place")
    return {
        **kept,
        "loss": Default(model_loss(versions), "what transformers of this version computes"),
        "clip_gradients": Default(True, "max_grad_norm is 1.0"),
        "hold_logits": Default(False, "compute_loss returns the loss alone, outputs die before backward"),
        "use_cache": Default(False, "the Trainer's use_cache is off")
        if versions.at_least("transformers", *NO_CACHE_SINCE)
        else Default(True, "a config's use_cache is True; checkpointing switches it off"),
        "implementation": Default(way, f"optim is adamw_torch{'_fused' * (way == 'fused')}: {way} with this torch"),
    }


RUNTIME = Runtime("trainer", "transformers' Trainer", "transformers, training_args.py, trainer.py", defaults)
