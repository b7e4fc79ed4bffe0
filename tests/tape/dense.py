"""Tiny configs of the dense decoder families, and the jobs on which the tape must equal the trace."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from oomph.job import InferJob, TrainJob
from tests.tape.grid import infer_job, job

Config = dict[str, Any]
JOBS, INFER_JOBS = 2, 1  # of each family
KIN = ("internlm3", "iquestcoder", "ministral3", "youtu")  # almost another's code: one job of each is enough
FULL, SLIDING = "full_attention", "sliding_attention"


def base(rng: random.Random) -> Config:
    """What all of them have: odd sizes, heads shared or not."""
    heads = rng.choice([2, 4, 6])
    return {
        "vocab_size": rng.choice([64, 515, 1013]),
        "hidden_size": heads * rng.choice([8, 16, 20, 40]),
        "intermediate_size": rng.choice([17, 64, 331]),
        "num_hidden_layers": rng.choice([2, 2, 3]),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([1, 2, heads]),
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "attention_dropout": rng.choice([0.0, 0.0, 0.1]),
    }


def own_heads(rng: random.Random) -> Config:
    """Heads whose size is not hidden_size / heads."""
    return {"head_dim": rng.choice([8, 18, 40])}


def sliding(rng: random.Random) -> Config:
    """A window, and layers of both kinds."""
    return {"sliding_window": rng.choice([2, 8, 30, 200]), "layer_types": [SLIDING, FULL, SLIDING]}


def biased(rng: random.Random) -> Config:
    """Biases on the attention's maps."""
    return {"attention_bias": rng.random() < 0.5}


def act(rng: random.Random) -> Config:
    """Another activation now and then."""
    return {"hidden_act": rng.choice(["silu", "silu", "gelu", "relu"])}


def tied(rng: random.Random) -> Config:
    """Tables tied or not."""
    return {"tie_word_embeddings": rng.random() < 0.5}


def capped(rng: random.Random) -> Config:
    """Logits and scores bounded or not."""
    return {
        "final_logit_softcapping": rng.choice([30.0, None]),
        "attn_logit_softcapping": rng.choice([50.0, 50.0, None]),
        "hidden_activation": rng.choice(["gelu_pytorch_tanh", "silu"]),
    }


def partial(*shares: float) -> Callable[[random.Random], Config]:
    """Some channels of a head turned."""
    return lambda rng: {"partial_rotary_factor": rng.choice(shares), "head_dim": rng.choice([8, 16, 40])}


def no_rope(rng: random.Random) -> Config:
    """Layers that know no positions, windows in these or nowhere."""
    return {
        "no_rope_layers": [rng.randint(0, 1) for _ in range(3)],
        "use_sliding_window": rng.random() < 0.5,
        "sliding_window": rng.choice([None, 8]),
    }


def stablelm(rng: random.Random) -> Config:
    """Both forms of the layer, norms on heads or none."""
    return {
        "use_parallel_residual": rng.random() < 0.5,
        "qk_layernorm": rng.random() < 0.5,
        "use_qkv_bias": rng.random() < 0.5,
        "hidden_dropout": rng.choice([0.0, 0.1]),
        "partial_rotary_factor": rng.choice([0.25, 0.5, 1.0]),
        "num_attention_heads": 4,
        "num_key_value_heads": rng.choice([1, 2, 4]),
        "hidden_size": 32 * rng.choice([1, 2, 3]),  # a quarter of a head is pairs of channels
    }


def phi3(rng: random.Random) -> Config:
    """Windows, dropout, and frequencies chosen by the longest sequence."""
    raw = {
        "sliding_window": rng.choice([None, 8]),
        "resid_pdrop": rng.choice([0.0, 0.1]),
        "num_attention_heads": 4,
        "num_key_value_heads": rng.choice([2, 4]),
        "hidden_size": 64,  # 8 pairs of channels, as the factors have it
        "original_max_position_embeddings": 32,
    }
    if rng.random() < 0.5:
        raw["rope_scaling"] = {"type": "longrope", "long_factor": [1.5] * 8, "short_factor": [1.0] * 8}
    return raw


def helium(rng: random.Random) -> Config:
    """A head size that fits hidden_size, which its class asks for."""
    return {"num_attention_heads": 4, "hidden_size": 64, "head_dim": 16, "num_key_value_heads": rng.choice([2, 4])}


def latent(rng: random.Random) -> Config:
    """Latent attention, pairs of neighbours turned or halves."""
    return {
        "kv_lora_rank": rng.choice([8, 18, 32]), "q_lora_rank": rng.choice([None, 16, 24]),
        "qk_rope_head_dim": rng.choice([4, 8, 16]), "qk_nope_head_dim": rng.choice([8, 16, 132]),
        "v_head_dim": rng.choice([8, 16, 20]), "rope_interleave": rng.random() < 0.7,
        "num_attention_heads": 4, "num_key_value_heads": 4, "hidden_size": 80,
    }  # fmt: skip


FAMILIES: dict[str, tuple[Callable[[random.Random], Config], ...]] = {
    "apertus": (biased, own_heads, tied, lambda rng: {"hidden_act": rng.choice(["relu2", "silu"])}),
    "arcee": (biased, own_heads, tied, lambda rng: {"mlp_bias": rng.random() < 0.5}),
    "bitnet": (biased, tied, lambda rng: {"hidden_act": rng.choice(["relu2", "relu2", "silu"])}),
    "cohere": (biased, act, lambda rng: {"use_qk_norm": rng.random() < 0.5, "logit_scale": 0.5}),
    "cohere2": (biased, act, sliding, tied),
    "cwm": (own_heads, act, sliding, tied),
    "ernie4_5": (own_heads, act, tied, lambda rng: {"use_bias": rng.random() < 0.5}),
    "exaone4": (own_heads, act, sliding, tied),
    "gemma": (biased, own_heads, lambda rng: {"hidden_act": rng.choice(["gelu", "silu", "gelu_pytorch_tanh"])}),
    "gemma2": (biased, own_heads, sliding, capped, tied),
    "gemma3_text": (biased, own_heads, sliding, capped, tied),
    "glm": (biased, act, partial(0.5, 1.0), tied),
    "glm4": (biased, act, partial(0.5, 0.25), tied),
    "granite": (biased, act, tied, lambda rng: {"logits_scaling": 4.0, "residual_multiplier": 0.2}),
    "helium": (biased, act, helium, tied),
    "hunyuan_v1_dense": (
        biased, own_heads, act, tied,
        lambda rng: {"rope_scaling": rng.choice([None, {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}])},
    ),
    "hyperclovax": (biased, act, tied, lambda rng: {"use_post_norm": rng.random() < 0.6}),
    "iquestcoder": (biased, own_heads, act, tied),
    "jais2": (own_heads, tied, lambda rng: {"mlp_bias": rng.random() < 0.5}),
    "ministral": (own_heads, act, sliding, tied),
    "ministral3": (own_heads, act, tied, lambda rng: {"sliding_window": rng.choice([None, 8])}),
    "nemotron": (biased, partial(0.5, 1.0), tied, lambda rng: {"mlp_bias": rng.random() < 0.5}),
    "olmo": (biased, act, tied),
    "olmo2": (biased, act, tied),
    "nanochat": (biased, tied, lambda rng: {"hidden_act": rng.choice(["relu2", "silu"])}),
    "olmo3": (biased, act, sliding, tied),
    "phi3": (act, tied, phi3),
    "internlm3": (own_heads, act, lambda rng: {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "seed_oss": (biased, own_heads, act, tied, lambda rng: {"residual_dropout": rng.choice([0.0, 0.1])}),
    "smollm3": (biased, act, tied, no_rope),
    "stablelm": (act, tied, stablelm),
    "starcoder2": (
        tied,
        lambda rng: {"sliding_window": rng.choice([None, 8, 200]), "use_bias": rng.random() < 0.5},
        lambda rng: {"residual_dropout": rng.choice([0.0, 0.1]), "embedding_dropout": rng.choice([0.0, 0.1])},
    ),
    "youtu": (biased, act, tied, latent),
    "vaultgemma": (biased, own_heads, sliding, capped, tied),
}  # fmt: skip


def config(rng: random.Random, model_type: str) -> Config:
    """A tiny model of a family, every option its class has now and then."""
    raw = {"model_type": model_type, **base(rng)}
    for options in FAMILIES[model_type]:
        raw |= options(rng)
    if "layer_types" in raw:
        raw["layer_types"] = raw["layer_types"][: raw["num_hidden_layers"]]
    return raw


def grid(count: int, seed: int = 20261127) -> Iterator[tuple[Config, TrainJob]]:
    """`count` jobs of each family."""
    for model_type in FAMILIES:
        rng = random.Random(f"{model_type} {seed}")
        for _ in range(1 if model_type in KIN else count):
            yield config(rng, model_type), job(rng, model_type)


def infer_grid(count: int, seed: int = 20261128) -> Iterator[tuple[Config, InferJob]]:
    """`count` inference jobs of each family."""
    for model_type in FAMILIES:
        rng = random.Random(f"{model_type} {seed}")
        for _ in range(0 if model_type in KIN else count):
            yield config(rng, model_type), infer_job(rng)
