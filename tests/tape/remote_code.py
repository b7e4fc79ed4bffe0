"""Jobs of models whose code comes with them, and what that code does, as scripts/record_remote_code.py recorded it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oomph.errors import OomphError
from oomph.job import TrainJob
from tests.tape.grid import played

GOLDEN = Path(__file__).parent / "remote_code.json"
RECIPE = "python scripts/record_remote_code.py FOLDER; torch 2.13, transformers 5.23"
JOBS = 8  # of each model
Config = dict[str, Any]


def base(rng: random.Random) -> Config:
    """What all of them have: odd sizes."""
    heads = rng.choice([2, 4, 6])
    return {
        "vocab_size": rng.choice([64, 515, 1013]),
        "hidden_size": heads * rng.choice([8, 16, 20, 40]),
        "intermediate_size": rng.choice([17, 64, 331]),
        "num_hidden_layers": rng.choice([2, 2, 3]),
        "num_attention_heads": heads,
        "max_position_embeddings": 128,
    }


def internlm(rng: random.Random) -> Config:
    """Biases of its four maps or none."""
    return {"bias": rng.random() < 0.7}


def minicpm(rng: random.Random) -> Config:
    """Heads shared or not; the numbers that everything is multiplied by."""
    return {
        "num_key_value_heads": rng.choice([1, 2]), "scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 8,
        "tie_word_embeddings": rng.random() < 0.7, "attention_dropout": rng.choice([0.0, 0.1]),
    }  # fmt: skip


def mimo(rng: random.Random) -> Config:
    """With layers that predict further tokens, or none."""
    return {
        "num_key_value_heads": rng.choice([1, 2]), "num_nextn_predict_layers": rng.choice([0, 1, 1, 2]),
        "tie_word_embeddings": False, "attention_dropout": rng.choice([0.0, 0.1]),
    }  # fmt: skip


def nemotron_nas(rng: random.Random) -> Config:
    """Layers of other heads and widths, without attention or MLP, or with a linear map in place of one."""
    blocks = []
    for index in range(3):
        attention: Config = {"n_heads_in_group": rng.choice([1, 2]), "no_op": index > 0 and rng.random() < 0.3}
        ffn: Config = {"ffn_mult": rng.choice([0.5, 2.625]), "no_op": rng.random() < 0.2}
        attention["replace_with_linear"] = index > 0 and not attention["no_op"] and rng.random() < 0.3
        ffn["replace_with_linear"] = not ffn["no_op"] and rng.random() < 0.3
        blocks.append({"attention": attention, "ffn": ffn})
    return {"block_configs": blocks, "num_hidden_layers": 3, "tie_word_embeddings": False}


FAMILIES: dict[str, Callable[[random.Random], Config]] = {
    "internlm": internlm,
    "mimo": mimo,
    "minicpm": minicpm,
    "nemotron-nas": nemotron_nas,
}


def config(rng: random.Random, model_type: str) -> Config:
    """A tiny model of a type."""
    return {"model_type": model_type, **base(rng), **FAMILIES[model_type](rng)}


def job(rng: random.Random) -> dict[str, Any]:
    """Inputs of a job."""
    return {
        "batch": rng.choice([1, 2, 3]), "seq_len": rng.choice([8, 37, 100]),
        "attention": rng.choice(["flash", "eager"]), "precision": rng.choice(["bf16", "fp16", "fp32", "amp-bf16"]),
        "padding": rng.random() < 0.4,
        "checkpointing": rng.choice(["none", "none", "reentrant", "non-reentrant"]), "dropout": rng.random() < 0.5,
        "checkpoint_every": rng.choice([1, 1, 2]),
        "use_cache": rng.random() < 0.3, "hold_logits": rng.random() < 0.5,
        **rng.choice([{}, {}, {"method": "lora", "targets": "q_proj,down_proj"}]),
        "accumulation": rng.choice([1, 1, 2]),
        "optimizer": rng.choice(["adamw", "none"]), "steady": rng.random() < 0.5,
    }  # fmt: skip


def playable(rng: random.Random, model_type: str) -> tuple[Config, dict[str, Any]]:
    """The next job that is not refused."""
    while True:
        raw, inputs = config(rng, model_type), job(rng)
        try:
            played(raw, TrainJob(**inputs))
        except OomphError:
            continue
        return raw, inputs


def cases() -> list[tuple[Config, dict[str, Any]]]:
    """The jobs, those of one model after another's."""
    found = []
    for model_type in FAMILIES:
        rng = random.Random(f"{model_type} 20261127")
        found += [playable(rng, model_type) for _ in range(JOBS)]
    return found
