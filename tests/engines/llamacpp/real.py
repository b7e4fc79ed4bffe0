"""What a real llama.cpp logs when its server starts: package xllamacpp, a llama-server in a Python wheel, on the CPU.

`start(path, n_ctx=4096, n_parallel=2)` runs one in a process of its own and returns its lines, read. Parameters are
the fields of llama.cpp's common_params; `draft` is the file of a draft model that is asked ahead. Nothing is computed:
no warm-up, no request, no fitting to free memory unless asked for.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LONGEST = 20  # seconds
INFORMED = 4  # of verbosity: the lines of buffers, and not every tensor and node
_BUFFER = re.compile(r"(\S+) +(model|KV|RS|compute|output) +buffer size = +([\d.]+) MiB")
_CACHE = re.compile(
    r"llama_kv_cache: size = +([\d.]+) MiB \( *(\d+) cells, +(\d+) layers, +(\d+)/(\d+) seqs\), "
    r"K \(\w+\): +([\d.]+) MiB, V \(\w+\): +([\d.]+) MiB"
)
_STATES = re.compile(
    r"llama_memory_recurrent: size = +([\d.]+) MiB .*R \(\w+\): +([\d.]+) MiB, S \(\w+\): +([\d.]+) MiB"
)
_NUMBER = re.compile(r"llama_context: (n_\w+) += (\d+)")


@dataclass(frozen=True)
class Cache:
    """One cache of keys and values, as its line says: MiB, cells of each stream, layers, streams."""

    mib: float
    cells: int
    layers: int
    seqs: int
    streams: int
    k_mib: float
    v_mib: float


@dataclass(frozen=True)
class Said:
    """What was logged. `buffers` by kind (model, KV, RS, compute, output), then by device, in MiB of two decimals."""

    buffers: dict[str, dict[str, float]]
    caches: tuple[Cache, ...]
    states: tuple[float, ...]  # MiB of the recurrent states: all, of the convolutions (R), of the recurrence (S)
    numbers: dict[str, int] = field(default_factory=dict)  # n_ctx, n_ctx_seq, n_batch ...
    text: str = ""

    def mib(self, kind: str) -> float:
        """Return what the buffers of a kind take on all devices together."""
        return sum(self.buffers.get(kind, {}).values())


def needed() -> None:
    """Skip a test unless the engine is here."""
    import pytest  # here, not above: the process of the server runs this file too

    if find_spec("xllamacpp") is None or find_spec("gguf") is None:
        pytest.skip("pip install xllamacpp gguf: the real llama.cpp to compare with")


def start(path: Path, **params: Any) -> Said:
    """Start a server on a file and return what it logged; RuntimeError where it does not come up."""
    asked = {"warmup": False, "fit_params": False, "port": 0, "verbosity": INFORMED, **params}
    command = [sys.executable, __file__, str(path), json.dumps(asked)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False, errors="replace")
    text = ran.stdout + ran.stderr
    if ran.returncode:
        lines = [line for line in text.splitlines() if " E " in line or "Error" in line or "what()" in line]
        raise RuntimeError("\n".join(lines[:6]) or text[-600:])
    return read(text)


def read(text: str) -> Said:
    """Return the lines of a log that tell sizes."""
    buffers: dict[str, dict[str, float]] = {}
    for device, kind, mib in _BUFFER.findall(text):
        of_kind = buffers.setdefault(kind, {})
        of_kind[device] = of_kind.get(device, 0.0) + float(mib)
    caches = [
        Cache(float(mib), int(cells), int(layers), int(seqs), int(streams), float(k), float(v))
        for mib, cells, layers, seqs, streams, k, v in _CACHE.findall(text)
    ]
    states = _STATES.findall(text)
    numbers = {name: int(value) for name, value in _NUMBER.findall(text)}
    return Said(buffers, tuple(caches), tuple(map(float, states[0])) if states else (), numbers, text)


def _serve(path: str, asked: dict[str, Any]) -> None:
    """Start the server and leave at once, without waiting for its threads."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    if "lora" in asked:
        loras = []
        for each in asked.pop("lora"):
            loras.append(xllamacpp.CommonAdapterLoraInfo())
            loras[-1].path, loras[-1].scale = each, 1.0
        params.lora_adapters = loras
    if "mmproj_path" in asked:
        params.mmproj.path = asked.pop("mmproj_path")
    if "draft" in asked:
        params.speculative.draft.mparams.path = asked.pop("draft")
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        for name in ("n_max", "cache_type_k"):
            if f"draft_{name}" in asked:
                value = asked.pop(f"draft_{name}")
                value = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{value.upper()}") if name != "n_max" else value
                setattr(params.speculative.draft, name, value)
    for name, value in asked.items():
        if name in ("cache_type_k", "cache_type_v"):
            value = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{value.upper()}")
        setattr(params, name, value)
    try:
        server = xllamacpp.Server(params)  # kept: the last reference waits for its threads
    except Exception as error:
        print(f"Error: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    sys.stdout.flush()
    os._exit(0 if server else 1)


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))
