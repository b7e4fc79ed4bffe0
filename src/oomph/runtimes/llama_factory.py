"""LLaMA-Factory: the Trainer, layers checkpointed the reentrant way; what trains is made fp32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.errors import UnsupportedError
from oomph.job_words import FLASH_ATTN, PARTS
from oomph.objectives import OF_FACTORY, OF_FACTORY_ALONE
from oomph.runtimes import trainer
from oomph.runtimes.base import Default, Defaults, Runtime, Versions

WITH_DROPOUT = ("reward", "dft", "eaft", "asft")  # whose trainers do not switch it off


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of `llamafactory-cli train`."""
    return {
        **trainer.defaults(versions),
        "checkpointing": Default("reentrant", "checkpointing is on unless disabled, use_reentrant_gc is True"),
        "use_cache": Default(False, "it is switched off for training"),
        "seq_len": Default(2048, "cutoff_len is 2048"),
        "method": Default("lora", "finetuning_type is lora"),
        "rank": Default(8, "lora_rank is 8"),
        "targets": Default("all-linear", "lora_target is all"),
        "freeze_vision": Default(True, "freeze_vision_tower and freeze_multi_modal_projector are True"),
        "adapter_dtype": Default("fp32", "cast_trainable_params_to_fp32, unless pure_bf16"),
    }


def whole(versions: Versions) -> Defaults:
    """Return what full fine-tuning does otherwise: weights are cast to fp32 once they are loaded."""
    return {
        "precision": Default(
            "amp-bf16", "what trains is cast to fp32 unless pure_bf16, and bf16 is on in its examples"
        ),
        "fp32_outputs": Default(True, "accelerate returns fp32 logits under mixed precision"),
    }


def quantised(versions: Versions) -> Defaults:
    """Return what is done with a quantised base."""
    return {"kbit_preparation": Default(False, "nothing calls prepare_model_for_kbit_training")}


def packed(versions: Versions, attention: str) -> Defaults:
    """Return how neat_packing tells sequences apart."""
    if attention in FLASH_ATTN:
        return {}
    return {"packed_by": Default("mask", "neat_packing makes a mask of its own where flash-attn is not asked for")}


def of_objective(objective: str, versions: Versions) -> Defaults:
    """Return what its trainers of preferences, and its losses of answers, do otherwise."""
    if objective not in OF_FACTORY:
        raise UnsupportedError(f"oomph does not know {objective} as LLaMA-Factory runs it.", "Say --framework trl.")
    found = {
        "objective_code": Default("llama-factory", "its trainers have losses of their own"),
        "loss": Default(OF_FACTORY[objective].loss, "what its trainer of this objective computes"),
    }
    if objective not in OF_FACTORY_ALONE:
        found["padding"] = Default(True, "answers differ in length")
    if objective not in WITH_DROPOUT:
        found["dropout"] = Default(False, "disable_dropout is on")
    return found


def of_job(given: Mapping[str, Any]) -> Defaults:
    """Return in which dtype a reference is loaded: the checkpoint's, as nothing casts what does not train."""
    objective = given.get("objective", "sft")
    loaded = objective in OF_FACTORY and OF_FACTORY[objective].reference and given.get("method", "lora") in PARTS
    if not loaded:
        return {}
    return {"teacher_dtype": Default("bf16", "a reference keeps the checkpoint's dtype, which most have in bf16")}


RUNTIME = Runtime(
    "llama-factory",
    "LLaMA-Factory",
    "LLaMA-Factory, src/llamafactory/hparams",
    defaults,
    quantised=quantised,
    whole=whole,
    packed=packed,
    of_job=of_job,
    of_objective=of_objective,
)
