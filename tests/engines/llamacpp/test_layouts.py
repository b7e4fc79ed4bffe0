"""Compute buffers of models laid out at random on pretended GPUs, against those a real llama.cpp reserves there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from oomph.engines.llamacpp import builds
from oomph.engines.llamacpp.graph_setup import Build
from oomph.engines.llamacpp.job import EXPERTS
from tests.engines.llamacpp import pretended, real, tiny
from tests.engines.llamacpp.graphs import MODELS
from tests.engines.llamacpp.test_gpus import _held

HUNDREDTH = 0.0101  # two last decimals, in MiB
STATES = ("mamba", "qwen3next", "qwen35", "lfm2")  # what they keep follows its layer, whatever is asked


def _layout(rng: random.Random, name: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """GPUs, flags of a job, the same as fields of llama.h's parameters."""
    flags: dict[str, Any] = {"parallel": rng.choice([1, 1, 2, 4])}
    params: dict[str, Any] = {"n_seq_max": flags["parallel"]}
    if (layers := rng.choice([None, None, 0, 2, 4, 6])) is not None:
        flags["gpu_layers"] = params["n_gpu_layers"] = layers
    if rng.random() < 0.3:
        flags["flash_attn"], params["flash_attn_type"] = "off", 0
    if rng.random() < 0.2 and not name.startswith(STATES):
        flags["kv_offload"] = params["offload_kqv"] = False
    if rng.random() < 0.2:
        flags["op_offload"] = params["op_offload"] = False
    if rng.random() < 0.3:
        flags["ubatch_size"] = params["n_ubatch"] = rng.choice([64, 256, 1024])
    if rng.random() < 0.25:
        flags["cpu_moe"], params["on_host"] = True, EXPERTS
    return rng.choice([1, 1, 2, 3]), flags, params


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_random_layouts(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts on the host, experts there, caches there, several GPUs, all of one batch or many."""
    real.needed()
    monkeypatch.setattr(builds, "NEWEST", Build(kernel_copies=False, fused=False))
    rng = random.Random(seed)
    name = rng.choice(list(MODELS))
    gpus, flags, params = _layout(rng, name)
    tiny.write(tmp_path / "tiny.gguf", MODELS[name])
    said = pretended.start(tmp_path / "tiny.gguf", gpus, **params)
    ours, theirs = _held(name, "gguf-f16", gpus, flags).get("compute", {}), said.buffers["compute"]
    assert ours == {device: pytest.approx(mib, abs=HUNDREDTH) for device, mib in theirs.items()}, (name, gpus, flags)
