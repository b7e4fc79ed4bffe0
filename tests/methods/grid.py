"""Jobs of fine-tuning methods on which the tape must equal the trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from oomph.job import TrainJob
from tests.tape.grid import FAMILIES, config, job

JOBS = 40
LINEAR = ("q_proj,v_proj", "k_proj,up_proj,down_proj", "o_proj", "gate_proj,q_proj")
CONV1D = ("c_attn", "c_proj", "c_fc,c_attn")


def method_job(rng: random.Random, model_type: str) -> TrainJob:
    """A job of every input, trained by a method of every input."""
    names = CONV1D if model_type == "gpt2" else LINEAR
    return replace(
        job(rng, model_type),
        method="lora",
        rank=rng.choice([1, 3, 8, 16]),
        targets=rng.choice(["default", "all-linear", rng.choice(names)]),
        adapter_dropout=rng.choice([0.0, 0.0, 0.05]),
        adapter_dtype=rng.choice(["fp32", "fp32", "base"]),
        **quantised(rng),
    )


def quantised(rng: random.Random) -> dict[str, Any]:
    """Every other job on a quantised base, prepared or not."""
    if rng.random() < 0.5:
        return {}
    return {
        "quantization": rng.choice(["nf4", "nf4-dq", "fp4", "fp4-dq"]),
        "kbit_preparation": rng.random() < 0.6,
    }


def grid(count: int = JOBS, seed: int = 20261127) -> Iterator[tuple[dict[str, Any], TrainJob]]:
    """Configs and jobs, all families in turn."""
    rng = random.Random(seed)
    for index in range(count):
        model_type = FAMILIES[index % len(FAMILIES)]
        yield config(rng, model_type), method_job(rng, model_type)
