"""Buffers of weights, keys and values, states, logits and computation against those that a real llama.cpp logs,
architecture by architecture: exact to the two decimals of a MiB that it prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oomph.answer import Subject, resolve, subject
from oomph.engines.llamacpp.deploy import deploy
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.header import Source
from oomph.ledger import Printed
from tests.engines.llamacpp import real, tiny

HUNDREDTH = 0.0051  # half of the last decimal, in MiB
QUANTISED = ("gguf-f16", "gguf-bf16", "q8_0", "q4_0", "q4_k_m")
# Ways to start a server: the flags of a job, and the same as fields of llama.cpp's common_params.
STARTS: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"ctx_size": 5000, "parallel": 1}, {"n_ctx": 5000, "n_parallel": 1}),
    ({"ctx_size": 8192, "parallel": 3}, {"n_ctx": 8192, "n_parallel": 3}),
    (
        {"ctx_size": 4096, "flash_attn": "off"},
        {"n_ctx": 4096, "n_parallel": 4, "kv_unified": True, "flash_attn_type": 0},
    ),
    (
        {"ctx_size": 6000, "parallel": 2, "cache_type_k": "q8_0", "cache_type_v": "q4_0"},
        {"n_ctx": 6000, "n_parallel": 2, "cache_type_k": "q8_0", "cache_type_v": "q4_0"},
    ),
    ({"ctx_size": 4000, "swa_full": True, "parallel": 2}, {"n_ctx": 4000, "n_parallel": 2, "swa_full": True}),
    ({"ctx_size": 3000, "batch_size": 256, "mmap": False}, {"n_ctx": 3000, "n_batch": 256, "load_mode": 0, "np": -1}),
)


def _started(path: Path, params: dict[str, Any]) -> real.Said:
    """Start the engine on the CPU; `np` -1 is what llama-server makes of it."""
    asked = dict(params)
    if asked.pop("np", 0) == -1:
        asked |= {"n_parallel": 4, "kv_unified": True}
    return real.start(path, no_extra_bufts=True, **asked)


def _printed(found: Subject, stored: str | None, flags: dict[str, Any]) -> dict[str, float]:
    job = LlamaCppJob(gpu_layers=0, format=stored, **flags)
    lines: tuple[Printed, ...] = deploy(found, job).printed
    return {line.name: line.value for line in lines}


def _holds(ours: dict[str, float], said: real.Said) -> None:
    def near(name: str, theirs: float, parts: int = 1) -> None:
        assert ours.get(name, 0.0) == pytest.approx(theirs, abs=HUNDREDTH * parts), name

    near("model_host_mib", said.mib("model"))
    near("kv_mib", said.mib("KV"), max(1, len(said.caches)))
    near("kv_mib_k", sum(each.k_mib for each in said.caches), max(1, len(said.caches)))
    near("kv_mib_v", sum(each.v_mib for each in said.caches), max(1, len(said.caches)))
    near("rs_mib", said.mib("RS"))
    near("output_buffer_mib", said.mib("output"))
    if "host_buffer_mib" in ours:
        near("host_buffer_mib", said.mib("compute"))
    assert ours.get("kv_layers", 0) == sum(each.layers for each in said.caches)
    if said.caches:
        assert ours["kv_cells"] == max(each.cells for each in said.caches)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_buffers_are_those_the_engine_logs(name: str, tmp_path: Path) -> None:
    """Each architecture in one of the ways to start, from its config and from the header of its file."""
    real.needed()
    at = list(tiny.CONFIGS).index(name)
    stored, (flags, params) = QUANTISED[at % len(QUANTISED)], STARTS[at % len(STARTS)]
    tiny.write(tmp_path / "tiny.gguf", tiny.CONFIGS[name], stored)
    said = _started(tmp_path / "tiny.gguf", params)
    of_file = _printed(subject(str(tmp_path / "tiny.gguf")), None, flags)
    _holds(of_file, said)
    of_config = _printed(resolve(Source(name, "config", tiny.CONFIGS[name])), stored, flags)
    assert "host_buffer_mib" in of_config.keys() & of_file.keys()
    _holds(of_config, said)


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
def test_every_way_to_start(start: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> None:
    """A model with windows, which every flag of the cache changes."""
    real.needed()
    tiny.write(tmp_path / "tiny.gguf", tiny.CONFIGS["gemma3"], "q8_0")
    said = _started(tmp_path / "tiny.gguf", start[1])
    assert len(said.caches) == 2
    _holds(_printed(resolve(Source("gemma3", "config", tiny.CONFIGS["gemma3"])), "q8_0", start[0]), said)
