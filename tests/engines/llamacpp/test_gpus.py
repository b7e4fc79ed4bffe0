"""What lies on which GPU, against a real llama.cpp on pretended ones: weights, cache, states, computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oomph.answer import resolve
from oomph.devices import find
from oomph.engines.llamacpp import builds
from oomph.engines.llamacpp.deploy import deploy
from oomph.engines.llamacpp.graph_setup import Build
from oomph.engines.llamacpp.job import EXPERTS, LlamaCppJob
from oomph.engines.llamacpp.placing import on_gpu
from oomph.formats.gguf_types import BY_NAME
from oomph.header import Source
from tests.engines.llamacpp import pretended, real, tiny

HUNDREDTH = 0.0051  # half of the last decimal, in MiB

# GPUs, the flags of a job, and the same as fields of llama.h's parameters.
STARTS: tuple[tuple[int, dict[str, Any], dict[str, Any]], ...] = (
    (1, {}, {}),
    (1, {"gpu_layers": 3}, {"n_gpu_layers": 3}),
    (2, {"parallel": 2}, {"n_seq_max": 2}),
    (1, {"gpu_layers": 0}, {"n_gpu_layers": 0}),
    (1, {"kv_offload": False}, {"offload_kqv": False}),
    (3, {"tensor_split": "3,1,2", "gpu_layers": 5}, {"n_gpu_layers": 5, "tensor_split": [3, 1, 2]}),
    (1, {"flash_attn": "off", "gpu_layers": 4}, {"flash_attn_type": 0, "n_gpu_layers": 4}),
    (2, {"cpu_moe": True}, {"on_host": EXPERTS}),
    (2, {"op_offload": False, "gpu_layers": 2}, {"op_offload": False, "n_gpu_layers": 2}),
)

RECURRENT = ("mamba", "mamba2", "qwen3next", "lfm2")  # whose states must not lie with the host


def _held(name: str, stored: str, gpus: int, flags: dict[str, Any]) -> dict[str, dict[str, float]]:
    """MiB of each kind of buffer on each device, as we have them."""
    job = LlamaCppJob(**{"ctx_size": 4096, "parallel": 1, "format": stored, **flags})
    shares = deploy(
        resolve(Source(name, "config", {**tiny.CONFIGS, **tiny.MORE}[name])), job, [find("rtx-4090")] * gpus
    ).shares
    kinds = {"weights": "model", "keys and values": "KV", "recurrent states": "RS", "compute buffer": "compute"}
    found: dict[str, dict[str, float]] = {}
    for at, share in enumerate(shares[:-1]):
        for item in (*share.items, *share.held(4096, 1)):
            if item.name in kinds and item.n_bytes:
                found.setdefault(kinds[item.name], {})[f"CUDA{at}"] = item.n_bytes / 2**20
    for item in shares[-1].held(4096, 1):
        if item.name in kinds:
            device = "CUDA_Host" if item.name == "compute buffer" else "CPU"
            found.setdefault(kinds[item.name], {})[device] = item.n_bytes / 2**20
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_buffers_of_each_gpu_are_those_the_engine_logs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each architecture in one of the ways to lay it on GPUs, which have no kernels that want memory of their own."""
    real.needed()
    monkeypatch.setattr(builds, "NEWEST", Build(kernel_copies=False, fused=False))
    at = list(tiny.CONFIGS).index(name)
    stored, (gpus, flags, params) = ("q8_0", "q4_k_m", "gguf-f16")[at % 3], STARTS[at % len(STARTS)]
    if name in RECURRENT and not flags.get("kv_offload", True):
        gpus, flags, params = STARTS[2]
    tiny.write(tmp_path / "tiny.gguf", tiny.CONFIGS[name], stored)
    said = pretended.start(tmp_path / "tiny.gguf", gpus, **params)
    ours = _held(name, stored, gpus, flags)
    for kind in ("model", "KV", "RS", "compute"):
        theirs = {device: mib for device, mib in said.buffers.get(kind, {}).items() if device != "CPU_Mapped"}
        assert ours.get(kind, {}) == {d: pytest.approx(mib, abs=HUNDREDTH) for d, mib in theirs.items()}, kind


def test_quantised_rows_are_padded_on_a_gpu() -> None:
    """A row of 300 blocks of 32 ends on a multiple of 512 elements; plain rows do not."""
    assert on_gpu(BY_NAME["Q8_0"], (2, 9600)) == -(-(2 * 300 * 34 + 4 * 34) // 128) * 128
    assert on_gpu(BY_NAME["F16"], (2, 9600)) == 2 * 9600 * 2
