"""Starts of tiny models with `--fit on`, on GPUs with too little memory: what a real llama.cpp made of them.

`made_of(name)` is what we make of a case, in the words that `pretended.fit` has for what the engine does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oomph.answer import resolve
from oomph.engines.llamacpp.fit import fitted
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.engines.llamacpp.served import Served, known
from oomph.header import Source
from tests.engines.llamacpp import tiny

GOLDEN = Path(__file__).with_name("fit_golden.json")
GIB = 2**30
STORED = "q8_0"
# Model, layers, GiB free on each GPU, MiB to leave there, tokens at least, and fields of llama.h's parameters; `draft`
# is another model.
CASES: dict[str, tuple[str, int, list[float], list[int], int, dict[str, Any]]] = {
    "all fits": ("llama", 12, [1.0], [1], 4096, {}),
    "a shorter context": ("llama", 20, [0.1], [0], 4096, {}),
    "fewer layers": ("llama", 20, [0.05], [0], 4096, {}),
    "no layer": ("llama", 12, [0.02], [0], 4096, {}),
    "a context that was asked for": ("llama", 12, [0.05], [3], 4096, {"n_ctx": 8192}),
    "layers that were asked for": ("llama", 12, [0.05], [0], 1024, {"n_gpu_layers": 8}),
    "two GPUs": ("llama", 20, [0.06, 0.04], [0, 3], 4096, {}),
    "two GPUs, a shorter context": ("gemma3", 6, [0.047521, 0.043777], [1, 3], 4096, {"n_seq_max": 2}),
    "three GPUs": ("qwen2", 20, [0.025, 0.024, 0.017], [1, 1, 0], 512, {"n_seq_max": 2, "kv_unified": True}),
    "experts with the host": ("qwen3moe", 6, [0.065936], [3], 4096, {}),
    "most experts with the host": ("qwen3moe", 12, [0.066137], [0], 1024, {"n_seq_max": 2, "kv_unified": True}),
    "less than no experts": ("mixtral", 6, [0.045], [0], 1024, {}),
    "experts on two GPUs": ("mixtral", 20, [0.240318, 0.141794], [3, 3], 4096, {}),
    "beside a draft": ("llama", 12, [0.06], [1], 1024, {"draft": "qwen2"}),
    "experts beside a draft": ("mixtral", 6, [0.05, 0.07], [0, 1], 1024, {"draft": "llama", "n_seq_max": 2}),
    "experts on three GPUs": ("mixtral", 20, [0.099954, 0.151808, 0.142631], [3, 0, 0], 4096, {"n_seq_max": 2}),
}


def config(name: str) -> dict[str, Any]:
    """Return the model of a case."""
    model, layers, *_ = CASES[name]
    found = {**tiny.CONFIGS[model], "num_hidden_layers": layers}
    if "layer_types" in found:
        found["layer_types"] = (found["layer_types"] * layers)[:layers]
    return found


def with_draft(asked: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what is asked of the engine, with the file of the draft, if there is one."""
    if "draft" not in asked:
        return asked
    tiny.write(folder / "draft.gguf", tiny.CONFIGS[asked["draft"]], STORED)
    return {**asked, "draft": str(folder / "draft.gguf")}


def made_of(name: str) -> dict[str, Any]:
    """Return layers on GPUs, of each, patterns of tensors with the devices they go to, and the context."""
    model, _, gib, target, least, asked = CASES[name]
    job = LlamaCppJob(
        format=STORED, parallel=asked.get("n_seq_max", 1), kv_unified=asked.get("kv_unified", False),
        ctx_size=asked.get("n_ctx"), gpu_layers=asked.get("n_gpu_layers"),
        fit="on", fit_target=",".join(map(str, target)), fit_ctx=least,
    )  # fmt: skip
    free = [int(each * GIB) for each in gib]
    shares = tuple(map(float, free)) if len(free) > 1 else (1.0,)
    served = Served(*known(resolve(Source(model, "config", config(name))), STORED), job, shares)
    draft = None
    if "draft" in asked:
        found = known(resolve(Source(asked["draft"], "config", tiny.CONFIGS[asked["draft"]])), STORED)
        draft = Served(*found, job, shares)
    fit = fitted(served, free, draft)
    layers = fit.job.gpu_layers
    divided = layers != job.gpu_layers and len(free) > 1
    return {
        "n_ctx": fit.job.ctx_size,
        "n_gpu_layers": -1 if layers is None else layers,
        "split": list(fit.shares) if divided else [0.0] * len(free),
        "overrides": [[pattern, "CPU" if at < 0 else f"CUDA{at}"] for pattern, at in fit.overrides],
    }
