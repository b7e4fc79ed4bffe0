"""Tiny random configs of the state-space families and their hybrids, and jobs, on which tape must equal trace."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from oomph.job import InferJob, TrainJob
from tests.tape.grid import infer_job, job

Config = dict[str, Any]


def _mixer(rng: random.Random) -> Config:
    """Sizes of a Mamba-2 mixer of inner width 64."""
    heads = rng.choice([2, 4, 8])
    return {"heads": heads, "width": 64 // heads, "state": rng.choice([5, 8, 16]), "groups": rng.choice([1, 2]),
            "chunk": rng.choice([8, 16, 64]), "kernel": rng.choice([3, 4])}  # fmt: skip


def mamba2(rng: random.Random) -> Config:
    """Mamba-2: biases or none, tables tied or not, what layers add to in fp32 or not."""
    sizes = _mixer(rng)
    return {
        "model_type": "mamba2", "vocab_size": rng.choice([64, 515]), "hidden_size": 32,
        "num_hidden_layers": rng.choice([1, 2]), "num_heads": sizes["heads"], "head_dim": sizes["width"],
        "state_size": sizes["state"], "n_groups": sizes["groups"], "chunk_size": sizes["chunk"],
        "conv_kernel": sizes["kernel"], "use_bias": rng.random() < 0.4, "use_conv_bias": rng.random() < 0.6,
        "tie_word_embeddings": rng.random() < 0.4, "residual_in_fp32": rng.random() < 0.6,
        "hidden_act": rng.choice(["silu", "silu", "gelu"]),
    }  # fmt: skip


def mamba(rng: random.Random) -> Config:
    """Mamba, with the same switches."""
    return {
        "model_type": "mamba", "vocab_size": rng.choice([64, 515]), "hidden_size": 32,
        "num_hidden_layers": 1, "state_size": rng.choice([5, 16]), "expand": rng.choice([1, 2]),
        "conv_kernel": rng.choice([3, 4]), "time_step_rank": rng.choice([2, 7]), "use_bias": rng.random() < 0.4,
        "use_conv_bias": rng.random() < 0.6, "tie_word_embeddings": rng.random() < 0.4,
        "residual_in_fp32": rng.random() < 0.6,
    }  # fmt: skip


def falcon_mamba(rng: random.Random) -> Config:
    """Falcon-Mamba, with norms that have no scales."""
    return mamba(rng) | {"model_type": "falcon_mamba"}


def _hybrid(rng: random.Random, model_type: str) -> Config:
    """Mamba-2 and attention in turn, as IBM spells the sizes."""
    sizes = _mixer(rng)
    return {
        "model_type": model_type, "vocab_size": rng.choice([64, 515]), "hidden_size": 32, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": rng.choice([1, 2, 4]),
        "attention_dropout": rng.choice([0.0, 0.1]), "attention_bias": rng.random() < 0.3,
        "tie_word_embeddings": rng.random() < 0.4, "mamba_n_heads": sizes["heads"], "mamba_d_head": sizes["width"],
        "mamba_d_state": sizes["state"], "mamba_n_groups": sizes["groups"], "mamba_chunk_size": sizes["chunk"],
        "mamba_d_conv": sizes["kernel"], "mamba_conv_bias": rng.random() < 0.7, "mamba_proj_bias": rng.random() < 0.3,
    }  # fmt: skip


def bamba(rng: random.Random) -> Config:
    """Bamba, attention in the first or the second layer."""
    return _hybrid(rng, "bamba") | {"attn_layer_indices": [rng.choice([0, 1])]}


def granitemoehybrid(rng: random.Random) -> Config:
    """Granite 4, with experts or none, told positions or not."""
    return _hybrid(rng, "granitemoehybrid") | {
        "layer_types": rng.choice([["mamba", "attention"], ["attention", "mamba"]]),
        "num_local_experts": rng.choice([0, 4]), "num_experts_per_tok": 2, "shared_intermediate_size": 24,
        "position_embedding_type": rng.choice(["nope", "rope"]), "residual_multiplier": 0.5, "logits_scaling": 6.0,
    }  # fmt: skip


def jamba(rng: random.Random) -> Config:
    """Jamba: Mamba and attention in turn, experts in one of the two layers or in none."""
    return {
        "model_type": "jamba", "vocab_size": rng.choice([64, 515]), "hidden_size": 32, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": rng.choice([1, 2, 4]),
        "attention_dropout": rng.choice([0.0, 0.1]), "tie_word_embeddings": rng.random() < 0.4,
        "num_experts": rng.choice([1, 4]), "num_experts_per_tok": rng.choice([1, 2]),
        "expert_layer_period": 2, "expert_layer_offset": rng.choice([0, 1]),
        "attn_layer_period": 2, "attn_layer_offset": rng.choice([0, 1]), "mamba_d_state": rng.choice([5, 16]),
        "mamba_d_conv": rng.choice([3, 4]), "mamba_expand": rng.choice([1, 2]), "mamba_dt_rank": rng.choice([2, 7]),
        "mamba_conv_bias": rng.random() < 0.6, "mamba_proj_bias": rng.random() < 0.4,
    }  # fmt: skip


CONFIGS: dict[str, Callable[[random.Random], Config]] = {
    "bamba": bamba,
    "granitemoehybrid": granitemoehybrid,
    "falcon_mamba": falcon_mamba,
    "jamba": jamba,
    "mamba": mamba,
    "mamba2": mamba2,
}


TOKEN_BY_TOKEN = frozenset({"falcon_mamba", "jamba", "mamba"})
FEW = 8  # tokens, where each is forty events


def _training(rng: random.Random, name: str) -> TrainJob:
    """A job on several tokens: the strides of a single one are other ones of fake tensors than of torch's."""
    length = FEW if name in TOKEN_BY_TOKEN else rng.choice([FEW, 37])
    return replace(job(rng, name), seq_len=length, packing=False, accumulation=rng.choice([1, 2]))


def _inference(rng: random.Random, name: str) -> InferJob:
    """A job without padding: generate hands Mamba a mask with the prefill alone."""
    drawn = replace(infer_job(rng), padding=False)
    return replace(drawn, seq_len=min(drawn.seq_len, FEW), max_cache_len=0) if name in TOKEN_BY_TOKEN else drawn


def grid(training: int, inference: int, seed: int = 20261203) -> Iterator[tuple[Config, TrainJob | InferJob]]:
    """So many jobs of each family."""
    for name, config in CONFIGS.items():
        rng = random.Random(f"{name} {seed}")
        for _ in range(training):
            yield config(rng), _training(rng, name)
        for _ in range(inference):
            yield config(rng), _inference(rng, name)


def deep(name: str, layers: int) -> Config:
    """A config of a family with many layers, attention in every fourth of a hybrid."""
    raw = CONFIGS[name](random.Random(name))
    attending = [index for index in range(layers) if index % 4 == 3]
    depth = {
        "num_hidden_layers": layers,
        "attn_layer_indices": attending,
        "attn_layer_period": 4,
        "attn_layer_offset": 3,
        "layer_types": ["attention" if index in attending else "mamba" for index in range(layers)],
    }
    return raw | {key: value for key, value in depth.items() if key in raw}
