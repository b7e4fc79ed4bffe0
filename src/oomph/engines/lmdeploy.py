"""LMDeploy with TurboMind: a share of what is free once weights are loaded becomes the cache, in blocks of 64 tokens.

The pool does not depend on activations: they come out of what is left. Keys and values may be kept in 8 or 4 bits, with
a scale and a zero in the model's dtype for each token and head. A tied embedding is held twice.

Source: lmdeploy 0.16.0, src/turbomind/turbomind.cc (CreateEngine), models/llama/unified_attention_layer.cc,
kernels/attention/block.h, lmdeploy/messages.py, lmdeploy/utils.py (get_max_batch_size),
lmdeploy/turbomind/models/llama.py; 0.9.2 and 0.14.0, src/turbomind/models/llama/BlockManager.cc.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from oomph.engines.base import Deployment, Engine, Limit, ServeJob, flag
from oomph.engines.checks import whole
from oomph.engines.flags import spelled
from oomph.engines.paged import (
    Block,
    beside,
    check_devices,
    longest_of,
    share_of,
    share_unknown,
    taken,
    taken_for_granted,
    token_caches,
)
from oomph.engines.shards import Spread, format_of, on_device
from oomph.errors import UnsupportedError, UsageError
from oomph.ledger import Item, Printed
from oomph.units import GIB, MIB

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.model import Model

NAME = "LMDeploy"
POLICIES = {0: 16, 4: 4, 8: 8}  # --quant-policy and the bits of a number
PARAMETERS = 2  # of each token and head where numbers are quantised: a scale and a zero
FREE_SINCE = (0, 2, 2)  # the first version whose share is of what is free, not of all
BATCHES = {"a100": 384, "a800": 384, "h100": 1024, "h800": 1024, "h200": 1024}
BATCH = 128  # of other devices
TITLE = "object cache"


@dataclass(frozen=True)
class LmdeployJob(ServeJob):
    """An `lmdeploy serve api_server` command with TurboMind. Raises UsageError for values it does not take."""

    session_len: int | None = flag(None, "--session-len", help="tokens of a request, at most")
    cache_max_entry_count: float = flag(0.8, "--cache-max-entry-count", help="share of what is free")
    cache_block_seq_len: int = flag(64, "--cache-block-seq-len", help="tokens of a block")
    quant_policy: Literal[0, 4, 8] = flag(0, "--quant-policy", help="bits of keys and values, 0 for the model's")
    max_batch_size: int | None = flag(None, "--max-batch-size", help="requests in a step, at most")
    tensor_parallel: int = flag(1, "--tp", help="devices that share each layer")
    dtype: Literal["auto", "float16", "bfloat16"] = flag("auto", "--dtype", help="of weights and activations")

    @property
    def ranks(self) -> int:
        """Devices that it takes."""
        return self.tensor_parallel

    def with_context(self, tokens: int) -> LmdeployJob:
        """Return the job with requests so long, and no longer ones."""
        return replace(self, context=tokens, session_len=None)

    def __post_init__(self) -> None:
        """Refuse what it would not start with."""
        for name in ("session_len", "cache_block_seq_len", "max_batch_size", "tensor_parallel"):
            whole(f"--{name.replace('_', '-')}", getattr(self, name))
        if not 0 < self.cache_max_entry_count < 1:
            raise UsageError(
                f"--cache-max-entry-count {self.cache_max_entry_count} is no share of what is free.",
                "It is above 0 and below 1; a number of blocks is not modelled.",
            )
        if self.quant_policy not in POLICIES:
            raise UnsupportedError(f"--quant-policy {str(self.quant_policy)[:20]} is not modelled.", "Known: 0, 4, 8.")
        if self.version and self.release < FREE_SINCE:
            raise UnsupportedError("Before 0.2.2 LMDeploy's share was of all memory.", "Name a newer version.")

    @property
    def release(self) -> tuple[int, ...]:
        """The version as numbers."""
        found = re.match(r"v?(\d{1,4})\.(\d{1,4})\.(\d{1,4})", self.version.strip())
        if found is None:
            raise UsageError(f"{self.version[:40]!r} is no version of LMDeploy.", "Write it as 0.16.0.")
        return tuple(map(int, found.groups()))


def block(model: Model, job: LmdeployJob) -> Block:
    """Return a block on one device (Layout::layer_size).

    >>> from oomph import load
    >>> block(load("llama-3.1-8b"), LmdeployJob(quant_policy=8)).token_bytes  # 32 layers, 8 heads: 2 x (128 + 4) bytes
    67584
    """
    bits, total = POLICIES[job.quant_policy], 0
    for kept, layers in token_caches(model, NAME, latent=True):
        heads = 1 if kept.kind == "latent" else max(1, kept.heads // job.tensor_parallel)
        sides = (kept.key_dim,) if kept.kind == "latent" else (kept.key_dim, kept.value_dim)
        scales = PARAMETERS * 2 if job.quant_policy else 0
        total += layers * heads * sum(side * bits // 8 + scales for side in sides)
    return Block(job.cache_block_seq_len, total)


def deploy(found: Subject, job: LmdeployJob, devices: Sequence[Device]) -> Deployment:
    """Return what is on the devices: weights, and a share of what they leave free."""
    check_devices(devices, job.tensor_parallel, NAME, "--tp")
    longest = job.session_len or job.context or found.model.context_length
    if longest is None:
        raise UsageError("This config does not say how long a context may be.", "Say --session-len.")
    made = block(found.model, job)
    spread = Spread(job.tensor_parallel, job.tensor_parallel)
    fmt = format_of(found, job.format, job.dtype)
    held = on_device(found.model, fmt, spread)
    items = [Item("weights", "weights", held.n_bytes, safe=held.n_bytes + held.rounding_bytes)]
    if found.model.tied:
        twice = found.model.embedding_params * 2 // job.tensor_parallel
        items.append(
            Item("the embedding once more, as the head", "weights", twice, source="rule", evidence="turbomind/models")
        )
    name = devices[0].id if devices else ""
    batch = job.max_batch_size or next((size for card, size in BATCHES.items() if card in name), BATCH)
    limits = {
        "context": longest_of(found.model, job.session_len, longest, "--session-len"),
        "concurrency": Limit(batch, "--max-batch-size, or what LMDeploy takes on such a card"),
    }
    assumed = (
        f"LMDeploy {job.version or '0.16.0'} with TurboMind; activations come out of what is left beside the cache",
        taken_for_granted(found.model, NAME),
    )
    if not devices:
        return Deployment(
            (share_unknown(job.tensor_parallel, items, made),), job.context or longest, (), limits, assumed
        )
    items += beside(devices[0], job.tensor_parallel)
    blocks, safe = (_blocks(job, made, devices[0].capacity_bytes - each) for each in taken(items))
    share = share_of(devices[0], job.tensor_parallel, items, made, blocks)
    free = devices[0].capacity_bytes - taken(items)[0]
    return Deployment((share,), job.context or longest, _printed(job, made, blocks, safe, free), limits, assumed)


def _blocks(job: LmdeployJob, made: Block, free: int) -> int:
    return max(0, int(free * job.cache_max_entry_count)) // made.n_bytes


def _printed(job: LmdeployJob, made: Block, blocks: int, safe: int, free: int) -> tuple[Printed, ...]:
    share, kv = int(free * job.cache_max_entry_count), blocks * made.n_bytes / GIB
    ratio = job.cache_max_entry_count
    line = f"Object cache budget: {share / MIB:.2f} MB from free {free / MIB:.2f} MB and ratio {ratio:.3f}"
    return (
        Printed("free_gib", line, free / GIB),
        Printed("kv_cache_gib", line, kv, safe * made.n_bytes / GIB),
        Printed("kv_blocks", f"[BlockManager] max_block_count = {blocks}", blocks, safe),
        Printed("kv_tokens", f"tokens of the blocks: {blocks * made.tokens}", blocks * made.tokens, safe * made.tokens),
    )


def command(model: str, job: LmdeployJob) -> list[str]:
    """Return the words that start a server."""
    job = replace(job, session_len=job.session_len or job.context)
    plain, words = LmdeployJob(), ["lmdeploy", "serve", "api_server", model]
    for each in fields(job):
        if each.metadata.get("flags") and getattr(job, each.name) != getattr(plain, each.name):
            words += spelled(ENGINE, each.name, getattr(job, each.name))
    return words


_HARMLESS = """--server-name= --server-port= --model-name= --api-keys= --log-level= --chat-template= --tool-call-parser=
    --reasoning-parser= --revision= --download-dir= --allow-origins= --allow-credentials --ssl --proxy-url=
    --max-log-len= --disable-fastapi-docs --disable-metrics --enable-prefix-caching --trust-remote-code"""
REFUSED = {
    "--backend": "only TurboMind is", "--model-format": "say --format", "--dp": "copies side by side are not",
    "--ep": "experts apart are not", "--adapters": "it keeps adapters on the device", "--device": "only CUDA is",
    "--max-prefill-token-num": "it does not move the cache", "--communicator": "its buffers are not known",
    "--rope-scaling-factor": "it changes what the config says", "--nnodes": "several machines are not",
}  # fmt: skip
ENGINE = Engine(
    "lmdeploy", "LMDeploy", "lmdeploy 0.16.0: src/turbomind/turbomind.cc, kernels/attention/block.h", LmdeployJob,
    (("lmdeploy", "serve", "api_server"), ("docker", "openmmlab/lmdeploy")), deploy, command,
    models=("--model-path",), harmless=frozenset(_HARMLESS.split()), refused=REFUSED,
    formats=("bf16", "fp8", "awq"),
    hub=True,
    vendors=("nvidia",),
)  # fmt: skip
