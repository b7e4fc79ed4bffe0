"""Rows by hand, one of each schema that can be estimated, and what a published source says of them."""

from __future__ import annotations

import copy
from typing import Any

from oomph.job import TrainJob, describe

# fms-acceleration's benchmark: full fine-tuning of Mistral-7B on one A100-80GB, as its CSV has it.
TRAINING: dict[str, Any] = {
    "id": "by-hand-training",
    "framework": "HF Trainer/TRL SFT (fms-hf-tuning)",
    "framework_version": "torch 2.4.1, transformers 4.48.1",
    "model": "mistralai/Mistral-7B-v0.1",
    "method": "full",
    "weight_dtype": "bf16",
    "precision_mode": "pure bf16 (torch_dtype=bfloat16, no AMP flag, accelerate mixed_precision=no)",
    "optimizer": "AdamW (HF adamw_torch default)",
    "optimizer_dtype": "same as trainable param dtype",
    "seq_len": 4096,
    "micro_batch": 4,
    "grad_accum": 1,
    "attention_impl": "flash_attention_2",
    "checkpointing": "full (HF gradient_checkpointing=True)",
    "loss_impl": "eager (HF)",
    "compile": False,
    "packing": True,
    "parallel": {"dp": 1, "fsdp_zero": "none", "tp": 1},
    "n_gpus": 1,
    "gpu": "A100-80GB",
    "cpu_offload": False,
    "measured": {"peak_allocated_gib": 67.4602, "resident_alloc_gib": 40.4826},
    "status": "ok",
    "metric": "torch.cuda.max_memory_allocated (rank0)",
    "unit_ambiguous": False,
    "confidence": "high",
    "notes": "Alpaca packed to max_seq_len 4096",
}
# A start-up log of vLLM 0.19 on an H100: "Model loading took 14.99 GiB memory".
INFERENCE: dict[str, Any] = {
    "id": "by-hand-inference",
    "engine": "vllm",
    "engine_version": "0.19.0",
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "quant": None,
    "dtype": "bfloat16",
    "tp": 1,
    "pp": 1,
    "dp": 1,
    "measured": {"weights_gib": 14.99, "kv_tokens": 476016, "per_device": {"model": [1]}},
    "confidence": "high",
    "notes": [],
}
# QwenLM's speed benchmark: torch.cuda.max_memory_allocated of 2048 tokens after one.
GENERATE: dict[str, Any] = {
    "id": "by-hand-generate",
    "engine": "transformers",
    "engine_version": "4.46.0",
    "model": "Qwen/Qwen2.5-0.5B-Instruct",
    "quant": "BF16",
    "gpu": "A100 80GB",
    "n_gpus": 1,
    "input_len": 6144,
    "output_len": 2048,
    "total_len": 8192,
    "batch_size": 1,
    "measured": {"peak_gib": 1.23},
    "confidence": "high",
    "notes": "flash-attn; batch 1; generates 2048 tokens; only last-token logits in prefill",
}
XMEM: dict[str, Any] = {
    "id": "by-hand-xmem",
    "source": "xMem artifact",
    "task": "full fine-tune step (random init, from_config)",
    "model": "distilbert/distilgpt2",
    "optimizer": "AdamW",
    "batch_size": 47,
    "seq_len": 128,
    "dtype": "float32",
    "grad_checkpointing": False,
    "zero_grad_mode": 0,
    "gpu": "NVIDIA GeForce RTX 3060",
    "gpu_total_bytes": 12622168064,
    "status": "ok",
    "measured": {"nvml_peak_gib": 9.402344, "torch_reserved_peak_gib_est": 9.384766, "reserved_est_confirmed": False},
    "confidence": "high",
    "notes": [],
    "dup_group": "distilgpt2|AdamW|47",
}
TINY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 256,
    "vocab_size": 1024,
    "tie_word_embeddings": False,
}
JOB = describe(TrainJob(1, 64, optimizer="sgd"))
MEASURED: dict[str, Any] = {
    "schema": "oomph-measure-1",
    "id": "by-hand-measured",
    "framework": "transformers",
    "model": "tiny",
    "method": "full",
    "gpu": "NVIDIA H100 80GB HBM3",
    "status": "ok",
    "reason": "",
    "measured": {
        "peak_allocated_bytes": 100 * 2**20,
        "peak_reserved_bytes": 128 * 2**20,
        "resident_alloc_bytes": 20 * 2**20,
        "nvidia_smi_bytes": 600 * 2**20,
        "alloc_retries": 0,
        "peak_allocated_gib": 0.0977,
        "peak_reserved_gib": 0.125,
        "resident_alloc_gib": 0.0195,
        "nvidia_smi_gib": 0.5859,
    },
    "kind": "train",
    "job": JOB,
    "config": TINY,
    "device": {"gpu": "NVIDIA H100 80GB HBM3", "total_bytes": 85029158912},
    "environment": {},
}
ALL = (TRAINING, INFERENCE, GENERATE, XMEM, MEASURED)


def changed(row: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A copy of a row with other values; a dict is merged into the one it stands for."""
    found = copy.deepcopy(row)
    for key, value in values.items():
        known = found.get(key)
        found[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    return found
