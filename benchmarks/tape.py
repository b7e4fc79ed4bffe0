"""How long an estimate of a training step takes: a deep model the first time and again, and 100,000 jobs over a grid.

`first` plays a structure that was never met; `kept` is a new process that finds it in the cache folder; `again` asks
the same process for other sizes. Python's start is left out, and so is the import of oomph's modules unless it is said.
Times are processor time, median of five. Run: python benchmarks/tape.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module, Stack
from oomph.blocks.basic import Embedding, Head, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.model import Model
from oomph.play import train_step
from oomph.steps import grid, step
from oomph.units import human

RUNS = 5
GOAL_FIRST_MS, GOAL_AGAIN_MS, GOAL_GRID_S = 20, 2, 2
N_JOBS, N_SAMPLES = 100_000, 200
LLAMA_70B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672,
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "tie_word_embeddings": False,
}  # fmt: skip
FIRST = """
import time
from oomph.families import model_from_config
model = model_from_config({config})
{imports}
start = time.process_time()
from oomph.steps import step
from oomph.job import TrainJob
step(model, TrainJob(2, 2048, checkpointing={checkpointing!r})).peak
print((time.process_time() - start) * 1e3)
import sys; assert not {{"torch", "numpy"}} & set(sys.modules)
"""
LOADED = "import oomph.play, oomph.fold, oomph.steps, oomph.sources.kept, oomph.programs.llama, oomph.optimizers.adamw"


def first_ms(checkpointing: str, loaded: bool, cache: str = "") -> float:
    """Time of the first estimate in a new process, with the time to import oomph's modules or without."""
    code = FIRST.format(config=LLAMA_70B, checkpointing=checkpointing, imports=LOADED if loaded else "")
    run = partial(subprocess.run, [sys.executable, "-c", code], capture_output=True, check=True)
    env = {**os.environ, "OOMPH_CACHE": cache}
    if cache:
        run(env=env)
    return statistics.median(float(run(env=env).stdout) for _ in range(RUNS))


def again_ms(function: Any) -> float:
    times = []
    for at in range(RUNS):
        start = time.process_time()
        function(at)
        times.append((time.process_time() - start) * 1e3)
    return statistics.median(times)


def llama_like(layers: int, **sizes: Any) -> Model:
    """Build a Llama whose sizes may stand for many jobs."""
    hidden, norm = sizes["hidden_size"], Norm(sizes["hidden_size"])
    layer = Module(
        {
            "self_attn": Attention(hidden, sizes["num_heads"], sizes["num_kv_heads"], sizes["head_dim"]),
            "mlp": GatedMLP(hidden, sizes["ffn_size"]),
            "input_layernorm": norm,
            "post_attention_layernorm": norm,
        }
    )
    parts = {
        "model.embed_tokens": Embedding(sizes["vocab_size"], hidden),
        "model.layers": Stack.of(layer, layers),
        "model.norm": norm,
        "lm_head": Head(hidden, sizes["vocab_size"]),
    }
    return Model(parts, hidden, layers, sizes["vocab_size"], model_type="llama")


def grid_of_jobs() -> dict[str, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    heads = rng.choice([8, 16, 32, 64], N_JOBS)
    return {
        "hidden_size": heads * 128,
        "num_heads": heads,
        "num_kv_heads": heads // rng.choice([1, 2, 4, 8], N_JOBS),
        "head_dim": rng.choice([64, 128], N_JOBS),
        "ffn_size": heads * 448,
        "vocab_size": rng.integers(30_000, 150_000, N_JOBS),
        "layers": rng.integers(5, 100, N_JOBS),
        "batch": rng.integers(1, 9, N_JOBS),
        "seq_len": rng.integers(1, 65, N_JOBS) * 128,
    }


def measure_grid(checkpointing: Any) -> None:
    columns = grid_of_jobs()

    def build(batch: Any, seq_len: Any, layers: Any, **sizes: Any) -> tuple[Model, TrainJob, Any]:
        return llama_like(1, **sizes), TrainJob(batch, seq_len, checkpointing=checkpointing), layers

    start = time.process_time()
    peaks = grid(build, columns)
    took, wrong = time.process_time() - start, 0
    for index in range(0, N_JOBS, N_JOBS // N_SAMPLES):
        sizes = {name: int(column[index]) for name, column in columns.items()}
        batch, seq_len, layers = (sizes.pop(name) for name in ("batch", "seq_len", "layers"))
        one = train_step(llama_like(layers, **sizes), TrainJob(batch, seq_len, checkpointing=checkpointing))
        wrong += one.peak != peaks[index]
    print(
        f"{N_JOBS:,} jobs, {checkpointing:13} {took:6.2f} s  goal {GOAL_GRID_S} s: "
        f"{'met' if took <= GOAL_GRID_S else 'missed'}; wrong at {wrong} of {N_SAMPLES} sampled points"
    )


def met(value: float, goal: float) -> str:
    return f"goal {goal} ms: {'met' if value <= goal else 'missed'}"


def main() -> None:
    model = model_from_config(LLAMA_70B)
    for checkpointing in ("none", "non-reentrant"):
        job = partial(TrainJob, checkpointing=checkpointing)
        step(model, job(2, 2048))
        fresh, first = first_ms(checkpointing, False), first_ms(checkpointing, True)
        with tempfile.TemporaryDirectory() as cache:
            kept = first_ms(checkpointing, True, cache)
        again = again_ms(lambda at, job=job: step(model, job(2 + at, 1024 * (at + 1))).peak)
        full = again_ms(lambda at, job=job: train_step(model, job(2, 2048)).peak)
        print(
            f"80 layers, {checkpointing:13} first {first:5.1f} ms ({met(first, GOAL_FIRST_MS)}; with imports "
            f"{fresh:.1f} ms), kept {kept:4.1f} ms, again {again:4.2f} ms ({met(again, GOAL_AGAIN_MS)}), "
            f"in full {full:6.1f} ms, peak {human(step(model, job(2, 2048)).peak)}"
        )
    for checkpointing in ("none", "non-reentrant"):
        measure_grid(checkpointing)


if __name__ == "__main__":
    main()
