"""Which inputs of a job tell anything, given the others: what is printed with an answer, and what is left out."""

from __future__ import annotations

from collections.abc import Callable

from oomph.job import InferJob, TrainJob
from oomph.job_words import (
    ADAPTERS,
    BLOCKED,
    FLASH_ATTN,
    INTEGER_CACHES,
    OF_PROMPTS,
    PROMPTED,
    RANKED,
    STATIC_CACHES,
)
from oomph.objectives import KINDS as OBJECTIVES
from oomph.optimizer_names import KINDS, Kind

NO_KIND = Kind("none", "none", has_state=False)
EIGHT = 8  # bits of a state whose embeddings may be fp32


def _adapted(job: TrainJob) -> bool:
    return job.method in ADAPTERS or job.method in ("adapter", "adapter_v2")


def _kind(job: TrainJob) -> Kind:
    return KINDS.get(job.optimizer, NO_KIND)


# When an input tells anything; those that are not here always do.
TELLS: dict[str, Callable[[TrainJob], bool]] = {
    "rank": lambda job: job.method in RANKED,
    "rank_pattern": lambda job: job.rank_pattern != "",
    "targets": lambda job: job.method in ADAPTERS,
    "adapter_dropout": lambda job: job.method in RANKED,
    "adapter_dtype": lambda job: job.method in ADAPTERS or job.method == "freeze",
    "quantization": _adapted,
    "kbit_preparation": lambda job: job.method in ADAPTERS,
    "modules_to_save": lambda job: job.method in ADAPTERS,
    "quantised_experts": lambda job: job.method in RANKED,
    "narrow_tables": lambda job: job.method in ADAPTERS,
    "keeps_4bit_inputs": _adapted,
    "gptq_kernel": lambda job: _adapted(job) and job.quantization.startswith("gptq"),
    "model_code": lambda job: job.model_code != "transformers",
    "optim_rank": lambda job: _kind(job).targets == "linear",
    "update_projection": lambda job: _kind(job).targets == "linear" or _kind(job).preconditioned,
    "embedding_32bit": lambda job: _kind(job).rule == "bnb" and _kind(job).bits == EIGHT,
    "wide_tables": lambda job: job.wide_tables,
    "freeze_embeddings": lambda job: job.method == "full",
    "freeze_layers": lambda job: job.method == "full",
    "compile": lambda job: job.compile,
    "checkpoint_saves": lambda job: bool(job.checkpoint_saves),
    "activation_offload": lambda job: job.activation_offload != "none",
    "images": lambda job: job.images > 0,
    "image_size": lambda job: job.images > 0,
    "audio": lambda job: job.audio > 0,
    "freeze_vision": lambda job: job.freeze_vision,
    "zero_stage": lambda job: job.zero_stage > 0,
    "zero_bucket": lambda job: job.zero_stage > 0,
    "zero_overlap": lambda job: job.zero_stage > 0,
    "zero_offload": lambda job: job.zero_stage > 0,
    "keeps_cache": lambda job: job.keeps_cache,
    "denominators_apart": lambda job: job.denominators_apart and _kind(job).rule == "adamw" and not job.zero_stage,
    "heads_of_4_51": lambda job: job.heads_of_4_51,
    "repeats_keys": lambda job: job.repeats_keys,
    "long_samples": lambda job: job.mixed,
    "kernels": lambda job: job.kernels != "torch",
    "kernel_parts": lambda job: job.kernel_parts != "",
    "mixers": lambda job: job.mixers != "torch",
    "task": lambda job: job.task != "config",
    "labels": lambda job: job.task != "config",
    "target_len": lambda job: job.target_len > 0,
    "sequences": lambda job: job.packing and (job.attention in FLASH_ATTN or job.loss in OF_PROMPTS),
    "padding_free": lambda job: job.padding_free,
    "packed_by": lambda job: job.packs,
    "keeps_softmax_inputs": lambda job: job.keeps_softmax_inputs,
    "reference": lambda job: OBJECTIVES[job.objective].reference and not OBJECTIVES[job.objective].teacher,
    "teacher": lambda job: OBJECTIVES[job.objective].teacher,
    "teacher_dtype": lambda job: OBJECTIVES[job.objective].teacher or job.teacher_dtype != "student",
    "objective_code": lambda job: job.objective_code != "trl",
    "reward_model": lambda job: OBJECTIVES[job.objective].judged,
    "rollout_batch": lambda job: OBJECTIVES[job.objective].judged,
    "mini_batches": lambda job: OBJECTIVES[job.objective].judged,
    "negatives": lambda job: OBJECTIVES[job.objective].task == "embedding",
    "anchor_len": lambda job: OBJECTIVES[job.objective].task == "embedding",
    "pooling": lambda job: OBJECTIVES[job.objective].task == "embedding",
    "normalize": lambda job: OBJECTIVES[job.objective].task == "embedding",
    "sentence_transformers": lambda job: OBJECTIVES[job.objective].task == "embedding",
    "mini_batch_size": lambda job: job.objective == "contrastive-cached",
    "loss": lambda job: OBJECTIVES[job.objective].task != "embedding",
    "prompt_len": lambda job: job.loss in OF_PROMPTS,
    "virtual_tokens": lambda job: job.method in PROMPTED,
    "block_size": lambda job: job.method in BLOCKED,
    "qat": lambda job: job.qat != "none",
    "weight_quant": lambda job: _kind(job).rule == "q_galore",
    "active_layers": lambda job: job.method in ("lisa", "freeze"),
}


def _integers(job: InferJob) -> bool:
    return job.cache in INTEGER_CACHES


SERVED: dict[str, Callable[[InferJob], bool]] = {
    "mixers": lambda job: job.mixers != "torch",
    "max_cache_len": lambda job: job.cache in STATIC_CACHES,
    "cache_bits": _integers,
    "cache_group": _integers,
    "cache_residual": _integers,
    "cache_axis": _integers,
    "beams": lambda job: job.beams > 1,
    "candidates": lambda job: job.candidates > 0,
    "images": lambda job: job.images > 0,
    "image_size": lambda job: job.images > 0,
    "audio": lambda job: job.audio > 0,
    "assistant": lambda job: job.assistant != "",
    "device_map": lambda job: job.device_map != "none",
    "max_memory": lambda job: job.max_memory != "",
    "offload": lambda job: job.offload != "none",
    "gptq_kernel": lambda job: job.quantization.startswith("gptq"),
    "compute_fp32": lambda job: job.quantization.startswith(("nf4", "fp4")),
}


def idle_inputs(job: TrainJob | InferJob) -> tuple[str, ...]:
    """Return the inputs that change nothing in a job of this method and optimizer.

    >>> "rank" in idle_inputs(TrainJob()), "rank" in idle_inputs(TrainJob(method="lora"))
    (True, False)
    """
    if not isinstance(job, TrainJob):
        return tuple(name for name, tells in SERVED.items() if not tells(job))
    return tuple(name for name, tells in TELLS.items() if not tells(job))
