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


CONFIGS: dict[str, Callable[[random.Random], Config]] = {
    "mamba2": mamba2,
}


def _training(rng: random.Random, name: str) -> TrainJob:
    """A job on several tokens: the strides of a single one are other ones of fake tensors than of torch's."""
    return replace(job(rng, name), seq_len=rng.choice([8, 37]), packing=False)


def grid(training: int, inference: int, seed: int = 20261203) -> Iterator[tuple[Config, TrainJob | InferJob]]:
    """So many jobs of each family."""
    for name, config in CONFIGS.items():
        rng = random.Random(f"{name} {seed}")
        for _ in range(training):
            yield config(rng), _training(rng, name)
        for _ in range(inference):
            yield config(rng), infer_job(rng)
