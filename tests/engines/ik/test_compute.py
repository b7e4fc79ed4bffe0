"""ik_llama.cpp's compute buffers against those that its own code logged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oomph.answer import resolve, subject
from oomph.devices import find
from oomph.engines import engine
from oomph.engines.ik import IkJob, IkServed
from oomph.engines.ik.compute import buffers, exactly
from oomph.engines.ik.setup import SUMMER_2025, IkBuild
from oomph.engines.llamacpp.served import known
from oomph.errors import UnsupportedError
from oomph.header import Source
from oomph.units import MIB
from tests.engines.llamacpp import tiny

ROWS = json.loads(Path(__file__).with_name("compute_golden.json").read_text())["rows"]
BUILDS = {"newest": IkBuild(), "summer 2025": SUMMER_2025, "summer 2025, four copies": replace(SUMMER_2025, copies=4)}
CONFIGS = {**tiny.CONFIGS, **tiny.MORE}
CONFIGS["glm4moe"] = CONFIGS["glm4moe"] | {"attention_bias": True}  # no file without is read
HUNDREDTH = 0.0051  # half of the last decimal that is logged, in MiB


def _name(row: dict[str, Any]) -> str:
    flags = " ".join(f"{key}={value}" for key, value in row["job"].items())
    return f"{row['build']}: {row['model']} on {row['gpus']}, {flags}"


def _cases(rows: list[dict[str, Any]]) -> list[Any]:
    """Tiny models at once, whole ones with what takes long."""
    whole = [pytest.mark.slow]
    return [pytest.param(row, id=_name(row), marks=[] if row["model"] in CONFIGS else whole) for row in rows]


@pytest.mark.parametrize("row", _cases(ROWS))
def test_buffers_are_those_its_own_code_logs(row: dict[str, Any]) -> None:
    """Cache and computation of each device, to the two decimals that are printed."""
    name = row["model"]
    found = resolve(Source(name, "config", CONFIGS[name])) if name in CONFIGS else subject(name)
    job = IkJob(**row["job"], version="" if row["build"] == "newest" else "b3811")
    served = IkServed(*known(found, row["stored"]), job, tuple(row["shares"]), present=row["gpus"] > 0)
    asked = served.asked(BUILDS[row["build"]])
    assert asked is not None
    context = int(served.window(1, 1).n_ctx)
    ours = buffers(asked, context)
    logged = {-1 if device == "CPU" else int(device[4:]): mib for device, mib in row["compute"].items()}
    assert {at: n / MIB for at, n in ours.items() if n} == pytest.approx(logged, abs=HUNDREDTH)
    kept = {int(device[4:]): mib for device, mib in row["kv"].items()}
    held = {gpu: served.kv_bytes(gpu, context, 1) / MIB for gpu in range(row["gpus"])}
    assert {gpu: n for gpu, n in held.items() if n} == pytest.approx(kept, abs=HUNDREDTH)


def test_an_architecture_without_a_graph_is_named() -> None:
    """Its compute buffers are not counted, and a deployment says so."""
    found = resolve(Source("tiny", "config", CONFIGS["starcoder2"]))
    deployed = engine("ik_llama.cpp").deploy(found, IkJob(ctx_size=4096, format="q8_0"), [find("h200")])
    assert any("starcoder2: its compute buffers are not counted" in each for each in deployed.warnings)
    assert not any(line.name == "compute_buffer_mib" for line in deployed.printed)


def test_builds_are_told_apart_by_their_numbers() -> None:
    """A build before pull request 520 copies experts in that a later one leaves with the host."""
    job = IkJob(ctx_size=4096, format="q8_0", override_tensor="exps=CPU", gpu_layers=99, flash_attn="on")
    found = resolve(Source("tiny", "config", CONFIGS["qwen3moe"] | {"num_experts": 128}))

    def computed(version: str) -> float:
        deployed = engine("ik_llama.cpp").deploy(found, replace(job, version=version), [find("h200")])
        return next(line.value for line in deployed.printed if line.name == "compute_buffer_mib")

    assert computed("b3700") > computed("b3811") > computed("")
    with pytest.raises(UnsupportedError, match="Give -ngl and -fa"):
        engine("ik_llama.cpp").deploy(found, replace(job, version="b3811", gpu_layers=None), [find("h200")])


def test_a_map_says_what_single_contexts_do() -> None:
    """Where -amb divides heads otherwise a buffer falls; contexts are never read off a line across such a place."""
    found = resolve(Source("tiny", "config", CONFIGS["deepseek2"]))
    asked = IkServed(*known(found, "q8_0"), IkJob(ctx_size=4096, attention_batch=4), (1.0,)).question
    assert asked is not None
    contexts = [4096 + 256 * step for step in range(8)]
    alone = [exactly(asked, 0, context) for context in contexts]
    assert exactly(asked, 0, np.array(contexts)).tolist() == alone
    assert alone[4] < alone[3]


@pytest.mark.parametrize(("mla", "layers"), [(3, 61), (0, 61), (1, 0)])
def test_maps_of_latent_attention_are_made_beside_the_file(mla: int, layers: int) -> None:
    """The log says: Computed blk.0.attn_kv_b.weight as 512 x 32768, for each layer, stored where its halves are."""
    job = IkJob(ctx_size=4096, format="q8_0", mla=mla, override_tensor="exps=CPU")
    deployed = engine("ik_llama.cpp").deploy(subject("deepseek-r1"), job, [find("h200")])
    made = [item.n_bytes for share in deployed.shares for item in share.items if item.name == "maps made of others"]
    assert sum(made) == layers * 32768 * 512 // 32 * 34
