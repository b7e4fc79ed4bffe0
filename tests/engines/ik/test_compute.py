"""ik_llama.cpp's compute buffers against those that its own code logged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomph.answer import resolve, subject
from oomph.engines.ik.compute import buffers
from oomph.engines.ik.deploy import IkJob, IkServed
from oomph.engines.ik.setup import SUMMER_2025
from oomph.engines.llamacpp.served import known
from oomph.header import Source
from oomph.units import MIB
from tests.engines.llamacpp import tiny

ROWS = json.loads(Path(__file__).with_name("compute_golden.json").read_text())["rows"]
BUILDS = {"summer 2025": SUMMER_2025, "summer 2025, four copies": replace(SUMMER_2025, copies=4)}
HUNDREDTH = 0.0051  # half of the last decimal that is logged, in MiB


def _name(row: dict[str, Any]) -> str:
    flags = " ".join(f"{key}={value}" for key, value in row["job"].items())
    return f"{row['build']}: {row['model']} on {row['gpus']}, {flags}"


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_buffers_are_those_its_own_code_logs(row: dict[str, Any]) -> None:
    """Of each device, to the two decimals that are printed."""
    configs = {**tiny.CONFIGS, **tiny.MORE}
    name = row["model"]
    found = resolve(Source(name, "config", configs[name])) if name in configs else subject(name)
    served = IkServed(*known(found, row["stored"]), IkJob(**row["job"]), tuple(row["shares"]), present=row["gpus"] > 0)
    asked = served.asked(BUILDS[row["build"]])
    assert asked is not None
    context = int(served.window(1, 1).n_ctx)
    ours = buffers(asked, context)
    logged = {-1 if device == "CPU" else int(device[4:]): mib for device, mib in row["compute"].items()}
    assert {at: n / MIB for at, n in ours.items() if n} == pytest.approx(logged, abs=HUNDREDTH)
