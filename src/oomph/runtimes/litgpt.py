"""LitGPT's recipes on one GPU: its own model code, weights, adapters and states in bf16 (bf16-true), no mask.

Nothing is checkpointed. A quantised base is trained with bitsandbytes' PagedAdamW, whatever optimizer is asked for.
"""

from __future__ import annotations

from oomph.runtimes.base import Default, Defaults, Runtime, Versions

# What ran with which torch, where no release is named: a commit's requirements and its date.
BY_TORCH = (((2, 2), "lit-gpt", "October 2023"), ((2, 5), "litgpt-0.3", "April 2024"))
BY_RELEASE = (((0, 3), "lit-gpt"), ((0, 4, 6), "litgpt-0.3"), ((0, 5, 4), "litgpt-0.4"))


def model_code(versions: Versions) -> Default:
    """Return which release's code runs: the one named, or one of the time of the torch that is.

    >>> model_code(Versions.found_in("litgpt 0.4.13")).value, model_code(Versions.found_in("torch 2.1.0")).value
    ('litgpt-0.4', 'lit-gpt')
    """
    known = dict(versions.known)
    if "litgpt" in known:
        code = next((code for before, code in BY_RELEASE if known["litgpt"] < before), "litgpt")
        return Default(code, "the release named")
    if "torch" in known:
        for before, code, when in BY_TORCH:
            if known["torch"] < before:
                return Default(code, f"the code of {when}, of that time's torch")
    return Default("litgpt", "LitGPT runs its own model code")


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of `litgpt finetune_full`, `finetune_lora` and the adapters' on one device."""
    code = model_code(versions)
    first = code.value == "lit-gpt"
    return {
        "model_code": code,
        "precision": Default("bf16", "bf16-true, as all of config_hub says; without a config it is bf16-mixed"),
        "loss": Default("litgpt", "chunked_cross_entropy"),
        "steady": Default(not first, "the longest sample is the very first" if first else "a later step"),
        "keep_outputs": Default(not first, "`logits` of before live until the next forward pass is over"),
        "implementation": Default("foreach", "torch.optim.AdamW takes foreach on a GPU"),
        "rank": Default(8, "lora_r is 8"),
        "targets": Default("query,value", "lora_query and lora_value are on"),
        "adapter_dtype": Default("base", "bf16-true makes adapters bf16"),
        "adapter_dropout": Default(0.05, "lora_dropout is 0.05"),
    }


def quantised(versions: Versions) -> Defaults:
    """Return what a quantised base changes."""
    return {
        "optimizer": Default("paged_adamw_32bit", "a quantised base is trained with bitsandbytes' PagedAdamW"),
        "kbit_preparation": Default(False, "Fabric prepares nothing"),
    }


RUNTIME = Runtime(
    "litgpt",
    "LitGPT",
    "litgpt 0.5.13, finetune/lora.py, finetune/full.py, and earlier releases",
    defaults,
    quantised=quantised,
)
