"""Two small engines with flags: one that takes a pool at its start, one that splits layers among unequal devices."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from oomph.answer import Subject
from oomph.devices import Device
from oomph.engines import ENGINES
from oomph.engines.base import Deployment, Engine, Limit, ServeJob, Share, flag
from oomph.errors import UnsupportedError, UsageError
from oomph.ledger import Item, Printed
from oomph.units import GIB

WEIGHTS, PER_TOKEN, BLOCK, LAYERS = 14 * GIB, 131072, 16, 32
CELLS = 256  # to a multiple of which the splitting engine pads its cache
PER_CARD = GIB // 2


@dataclass(frozen=True)
class PagedJob(ServeJob):
    """Flags as vLLM has them."""

    longest: int | None = flag(None, "--max-model-len")
    utilization: float = flag(0.9, "--gpu-memory-utilization")
    tensor_parallel: int = flag(1, "--tensor-parallel-size", "-tp")
    max_num_seqs: int = flag(256, "--max-num-seqs")
    kv_cache_dtype: Literal["auto", "fp8"] = flag("auto", "--kv-cache-dtype")
    eager: bool = flag(False, "--enforce-eager")
    chunked: bool = flag(True, "--enable-chunked-prefill/--no-enable-chunked-prefill")
    speculation: str = flag("", "--speculative-config")
    capture: tuple[int, ...] = flag((), "--cudagraph-capture-sizes")
    graphs: bool = flag(True, "PAGED_ESTIMATE_GRAPHS")

    def __post_init__(self) -> None:
        if not 0 < self.utilization <= 1:
            raise UsageError("--gpu-memory-utilization is a share of 1.")

    @property
    def ranks(self) -> int:
        """Devices that share each layer."""
        return self.tensor_parallel

    def with_context(self, tokens: int) -> PagedJob:
        """Return the job without the flag."""
        return replace(self, context=tokens, longest=None)


def _paged(found: Subject, job: PagedJob, devices: Sequence[Device]) -> Deployment:
    if job.format == "q4_k_m":
        raise UnsupportedError("paged does not load q4_k_m.")
    if len(devices) > 1 and job.tensor_parallel != len(devices):
        raise UsageError(f"--tensor-parallel-size {job.tensor_parallel} leaves GPUs idle.")
    width = PER_TOKEN // (2 if job.kv_cache_dtype == "fp8" else 1) // job.tensor_parallel

    def needs(context: Any, concurrency: Any) -> Any:
        return -(-context // BLOCK) * BLOCK * concurrency * width

    weights = WEIGHTS // (2 if job.format == "fp8" else 1) // job.tensor_parallel
    room = int(devices[0].capacity_bytes * job.utilization) - weights if devices else None
    share = Share(
        "gpu",
        (Item("weights", "weights", weights), Item("activations", "activations", 0, safe=2**20)),
        needs,
        lambda context, concurrency: (Item("keys and values", "kv_cache", needs(context, concurrency)),),
        room,
        devices[0].capacity_bytes if devices else None,
        pool=True,
        count=job.tensor_parallel,
    )
    limits = {"concurrency": Limit(job.max_num_seqs, f"--max-num-seqs {job.max_num_seqs}")}
    tokens = max(room or 0, 0) // (BLOCK * width) * BLOCK
    printed = (Printed("kv_tokens", f"GPU KV cache size: {tokens:,} tokens", tokens),)
    longest = found.model.context_length or 8192
    if job.longest:
        limits["context"] = Limit(job.longest, f"--max-model-len {job.longest}")
    return Deployment((share,), job.context or job.longest or longest, printed, limits, ("a paged assumption",))


PAGED = Engine(
    "paged",
    "An engine that takes a pool",
    "these tests",
    PagedJob,
    (("paged", "serve"), ("python", "-m", "paged.api_server"), ("docker", "paged/paged-openai")),
    _paged,
    lambda model, job: ["paged", "serve", model],
    harmless=frozenset({"--host=", "--port=", "--trust-remote-code", "--served-model-name=+", "PAGED_LOG="}),
    refused={"--cpu-offload-gb": "it moves weights to the machine's memory", "-O": "which graphs are captured"},
    suffixes={"k": 1000, "K": 1024},
    hub=True,
)


@dataclass(frozen=True)
class SplitJob(ServeJob):
    """Flags as llama.cpp has them."""

    cells: int | None = flag(None, "-c", "--ctx-size")
    concurrency: int = flag(1, "-np", "--parallel")
    gpu_layers: int = flag(LAYERS + 1, "-ngl", "--n-gpu-layers")
    cache_type_k: Literal["f16", "q8_0"] = flag("f16", "-ctk", "--cache-type-k")
    cache_type_v: Literal["f16", "q8_0"] = flag("f16", "-ctv", "--cache-type-v")
    mmap: bool = flag(True, "--mmap/--no-mmap")


def _split(found: Subject, job: SplitJob, devices: Sequence[Device]) -> Deployment:
    layer = WEIGHTS // LAYERS
    on_cards = min(job.gpu_layers, LAYERS)
    total = sum(device.capacity_bytes for device in devices)
    shares, placed = [], 0
    for at, device in enumerate(devices):
        last = at == len(devices) - 1
        layers = on_cards - placed if last else on_cards * device.capacity_bytes // total
        placed += layers
        shares.append(_card(f"{device.id} {at}", job, layers * layer, layers, device.capacity_bytes))
    left = LAYERS - on_cards
    shares.append(_card("host", job, left * layer, left, None))
    limits = {}
    if job.cells:
        limits["context"] = Limit(job.cells // job.concurrency, f"-c leaves so much for each of {job.concurrency}")
    return Deployment(tuple(shares), job.context or (job.cells or 4096) // job.concurrency, limits=limits)


def _card(name: str, job: SplitJob, weights: int, layers: int, capacity: int | None) -> Share:
    halves = sum(1 if each == "f16" else 0 for each in (job.cache_type_k, job.cache_type_v)) + 2

    def needs(context: Any, concurrency: Any) -> Any:
        return -(-context // CELLS) * CELLS * concurrency * PER_TOKEN // LAYERS * layers * halves // 4

    items = (Item("weights", "weights", weights), *([Item("context", "runtime", PER_CARD)] if capacity else []))
    room = None if capacity is None else capacity - weights - PER_CARD
    held = lambda *asked: (Item("cells", "kv_cache", needs(*asked)),)  # noqa: E731
    return Share(name, items, needs, held, room, capacity)


SPLIT = Engine(
    "split",
    "An engine that splits layers",
    "these tests",
    SplitJob,
    (("split-server",),),
    _split,
    lambda model, job: ["split-server", "-m", model, "-ngl", str(job.gpu_layers)],
    models=("-m", "--model", "-hf", "-hff:"),
    harmless=frozenset({"--host=", "--jinja"}),
)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have only the two engines of this file."""
    for name in list(ENGINES):
        monkeypatch.delitem(ENGINES, name)
    for fake in (PAGED, SPLIT):
        monkeypatch.setitem(ENGINES, fake.name, fake.name)
        monkeypatch.setitem(sys.modules, f"oomph.engines.{fake.name}", SimpleNamespace(ENGINE=fake))
