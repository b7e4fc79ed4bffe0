"""Small models and jobs on which the tape must equal LitGPT's real code, and what is kept of a step to compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oomph.compare import Step, peak_bytes
from oomph.job import DEFAULTS, TrainJob, describe

GOLDEN = Path(__file__).with_name("litgpt_golden.json")
ROWS = {"vocab_size": 515, "num_hidden_layers": 3, "num_attention_heads": 4}
LIT = {"vocab_size": 515, "padded_vocab_size": 515, "n_layer": 3, "n_head": 4, "block_size": 512}
GATED = {"norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "parallel_residual": False, "bias": False}
# By name: transformers' config of a model, and LitGPT's.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (
        {"model_type": "llama", **ROWS, "hidden_size": 64, "intermediate_size": 136, "num_key_value_heads": 2},
        {**LIT, **GATED, "n_embd": 64, "intermediate_size": 136, "n_query_groups": 2, "rotary_percentage": 1.0},
    ),
    "llama, as many keys": (
        {"model_type": "llama", **ROWS, "hidden_size": 64, "intermediate_size": 136},
        {**LIT, **GATED, "n_embd": 64, "intermediate_size": 136, "rotary_percentage": 1.0},
    ),
    "qwen3": (
        {"model_type": "qwen3", **ROWS, "hidden_size": 96, "intermediate_size": 136, "num_key_value_heads": 4,
         "head_dim": 16, "tie_word_embeddings": True},
        {**LIT, **GATED, "n_embd": 96, "intermediate_size": 136, "head_size": 16, "rotary_percentage": 1.0,
         "norm_qk": True},
    ),
    "gpt_neox": (
        {"model_type": "gpt_neox", **ROWS, "hidden_size": 128, "intermediate_size": 300, "rotary_pct": 0.25},
        {**LIT, "n_embd": 128, "intermediate_size": 300, "rotary_percentage": 0.25},
    ),
    "phi": (
        {"model_type": "phi", **ROWS, "hidden_size": 128, "intermediate_size": 300},
        {**LIT, "n_embd": 128, "intermediate_size": 300, "rotary_percentage": 0.5, "shared_attention_norm": True,
         "lm_head_bias": True, "gelu_approximate": "tanh"},
    ),
    "falcon": (
        {"model_type": "falcon", **ROWS, "hidden_size": 64},
        {**LIT, "n_embd": 64, "intermediate_size": 256, "rotary_percentage": 1.0, "shared_attention_norm": True,
         "n_query_groups": 1, "bias": False},
    ),
    "mistral": (
        {"model_type": "mistral", **ROWS, "hidden_size": 64, "intermediate_size": 136, "num_key_value_heads": 2,
         "sliding_window": 40},
        {**LIT, **GATED, "n_embd": 64, "intermediate_size": 136, "n_query_groups": 2, "rotary_percentage": 1.0,
         "sliding_window_size": 40, "sliding_window_indices": [1, 1, 1]},
    ),
    "gemma": (
        {"model_type": "gemma", **ROWS, "hidden_size": 96, "intermediate_size": 136, "num_key_value_heads": 1,
         "head_dim": 32},
        {**LIT, **GATED, "n_embd": 96, "intermediate_size": 136, "head_size": 32, "n_query_groups": 1,
         "rotary_percentage": 1.0, "mlp_class_name": "GemmaMLP", "gelu_approximate": "tanh",
         "scale_embeddings": True},
    ),
    "gemma2": (
        {"model_type": "gemma2", **ROWS, "num_hidden_layers": 4, "hidden_size": 96, "intermediate_size": 136,
         "num_key_value_heads": 2, "head_dim": 32, "sliding_window": 40},
        {**LIT, **GATED, "n_layer": 4, "n_embd": 96, "intermediate_size": 136, "head_size": 32, "n_query_groups": 2,
         "rotary_percentage": 1.0, "mlp_class_name": "GemmaMLP", "gelu_approximate": "tanh", "scale_embeddings": True,
         "sliding_window_size": 40, "post_attention_norm": True, "post_mlp_norm": True,
         "attention_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
}  # fmt: skip
PLUS_ONE = ("gemma", "gemma2")  # whose norms add one to their scale
ALL = "query,key,value,projection,mlp,head"


def told(job: TrainJob) -> dict[str, Any]:
    """The inputs of a job that are not the defaults: what a recording is found by."""
    return {name: value for name, value in describe(job).items() if value != DEFAULTS[name]}


def jobs() -> Iterator[tuple[str, TrainJob]]:
    """Yield model names and jobs, by the release they ask for."""
    # fmt: off
    for code, name, options in (
        ("litgpt", "llama", {"targets": "query,value", "batch": 2, "seq_len": 300}),
        ("litgpt", "llama, as many keys", {"targets": "query,value", "seq_len": 140, "adapter_dropout": 0.0}),
        ("litgpt", "qwen3", {"targets": ALL, "seq_len": 131, "rank": 3}),
        ("litgpt", "gpt_neox", {"targets": "key,mlp", "batch": 3, "seq_len": 37, "accumulation": 2}),
        ("litgpt", "phi", {"targets": "head,projection", "seq_len": 200, "keep_outputs": False}),
        ("litgpt", "falcon", {"method": "full", "batch": 2, "seq_len": 64}),
        ("litgpt", "gemma", {"method": "full", "seq_len": 150}),
        ("litgpt", "gemma2", {"targets": ALL, "seq_len": 130, "batch": 2}),
        ("litgpt", "llama", {"precision": "amp-bf16", "targets": "query,mlp,head", "batch": 2, "seq_len": 140}),
        ("litgpt", "gpt_neox", {"precision": "amp-bf16", "method": "full", "seq_len": 64}),
        ("litgpt", "mistral", {"targets": "value,mlp", "batch": 2, "seq_len": 72}),
        ("litgpt", "gpt_neox", {"method": "adapter", "batch": 1, "seq_len": 96}),
        ("litgpt", "llama, as many keys", {"method": "adapter_v2", "batch": 2, "seq_len": 48}),
        ("litgpt-0.4", "llama", {"targets": "query,value", "batch": 2, "seq_len": 300, "accumulation": 2}),
        ("litgpt-0.4", "gemma2", {"targets": "query,key,value", "seq_len": 130}),
        ("litgpt-0.4", "gemma2", {"method": "full", "seq_len": 50, "batch": 2}),
        ("litgpt-0.4", "falcon", {"targets": ALL, "seq_len": 66, "batch": 2}),
        ("litgpt-0.3", "llama", {"targets": "query,value", "batch": 2, "seq_len": 131}),
        ("litgpt-0.3", "gemma", {"targets": ALL, "batch": 2, "seq_len": 140}),
        ("litgpt-0.3", "gemma", {"method": "full", "seq_len": 40}),
        ("litgpt-0.3", "phi", {"targets": "query,mlp", "seq_len": 33, "batch": 2, "keep_outputs": False}),
        ("lit-gpt", "llama, as many keys", {"targets": "query,value", "seq_len": 140}),
        ("lit-gpt", "gpt_neox", {"targets": "query,value", "batch": 2, "seq_len": 260, "steady": False,
                                 "keep_outputs": False}),
        ("lit-gpt", "phi", {"targets": "query,value", "seq_len": 64, "accumulation": 2}),
        ("lit-gpt", "llama", {"method": "full", "seq_len": 64}),
        ("lit-gpt", "gpt_neox", {"method": "adapter", "seq_len": 64, "steady": False, "keep_outputs": False}),
        ("lit-gpt", "gpt_neox", {"method": "adapter_v2", "seq_len": 64, "steady": False, "keep_outputs": False}),
    ):
        defaults: dict[str, Any] = {
            "model_code": code, "loss": "litgpt", "method": "lora", "adapter_dtype": "base", "keep_outputs": True,
            "adapter_dropout": 0.05, "batch": 1, "hold_logits": True,
        }
        yield name, TrainJob(**defaults | options)
    # fmt: on


def summary(events: list[Step], parameter_bytes: int, buffer_bytes: int) -> dict[str, Any]:
    """Return what of a step must be equal: a digest of every event, and some numbers to find one's way by."""
    keys = json.dumps([one.key for one in events], separators=(",", ":"))
    return {
        "events": len(events),
        "sha256": hashlib.sha256(keys.encode()).hexdigest(),
        "peak_bytes": peak_bytes(events),
        "parameter_bytes": parameter_bytes,
        "buffer_bytes": buffer_bytes,
    }
