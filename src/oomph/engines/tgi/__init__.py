"""Text Generation Inference: what a warm-up with long prompts leaves free, less a tenth, becomes blocks of tokens.

All layers keep every token, windows included. Source: text-generation-inference 3.3.7 (commit db931fc),
server/text_generation_server/models/flash_causal_lm.py (warmup), models/globals.py, utils/import_utils.py;
launcher/src/main.rs (resolve_attention).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

from oomph.blocks.cached import TokenCache
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
from oomph.engines.shards import Spread, format_of, on_device, step_bytes
from oomph.engines.tgi.prefill import prefill_tokens
from oomph.errors import UsageError
from oomph.ledger import Item, Printed
from oomph.units import GIB

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device

NAME = "TGI"
WIGGLE_ROOM = 0.9  # TGI_WIGGLE_ROOM
BLOCK_TOKENS = {"flashinfer": 1, "flashdecoding": 256, "paged": 16}
FLASHINFER_HEADS = (64, 128, 256)
AMPERE = (8, 0)  # compute capability from which there is flash attention
FALLING_BACK = ("falcon", "deepseek_v2")
WARMED = "models/flash_causal_lm.py, warmup"


@dataclass(frozen=True)
class TgiJob(ServeJob):
    """A `text-generation-launcher` command. Raises UsageError for values it does not take."""

    max_batch_prefill_tokens: int | None = flag(None, "--max-batch-prefill-tokens", "MAX_BATCH_PREFILL_TOKENS")
    max_total_tokens: int | None = flag(None, "--max-total-tokens", "MAX_TOTAL_TOKENS", help="tokens of a request")
    max_input_tokens: int | None = flag(None, "--max-input-tokens", "--max-input-length", "MAX_INPUT_TOKENS")
    max_concurrent_requests: int = flag(128, "--max-concurrent-requests", "MAX_CONCURRENT_REQUESTS")
    cuda_memory_fraction: float = flag(1.0, "--cuda-memory-fraction", "CUDA_MEMORY_FRACTION")
    num_shard: int = flag(1, "--num-shard", "NUM_SHARD", help="devices that share each layer")
    dtype: Literal["auto", "float16", "bfloat16"] = flag("auto", "--dtype", "DTYPE")
    kv_cache_dtype: Literal["auto", "fp8_e4m3fn", "fp8_e5m2"] = flag("auto", "--kv-cache-dtype", "KV_CACHE_DTYPE")
    quantize: str | None = flag(None, "--quantize", "QUANTIZE", help="method, where the checkpoint names none")
    attention: Literal["", "flashinfer", "flashdecoding", "paged"] = flag("", "ATTENTION", help="the kernels")

    @property
    def ranks(self) -> int:
        """Devices that it takes."""
        return self.num_shard

    def with_context(self, tokens: int) -> TgiJob:
        """Return the job with requests so long, and no longer ones."""
        return replace(self, context=tokens, max_total_tokens=None)

    def __post_init__(self) -> None:
        """Refuse what it would not start with."""
        for name in (
            "max_batch_prefill_tokens",
            "max_total_tokens",
            "max_input_tokens",
            "max_concurrent_requests",
            "num_shard",
        ):
            whole(f"--{name.replace('_', '-')}", getattr(self, name))
        if not 0 < self.cuda_memory_fraction <= 1:
            raise UsageError("--cuda-memory-fraction is above 0, at most 1.")
        if self.max_input_tokens and self.max_total_tokens and self.max_input_tokens >= self.max_total_tokens:
            raise UsageError("--max-input-tokens is not below --max-total-tokens.", "Leave room for what is written.")


def attention(kept: TokenCache, model_type: str, job: TgiJob, device: Device | None) -> str:
    """Return the kernels of attention, by which a block is of 1, 16 or 256 tokens (resolve_attention).

    >>> attention(TokenCache(8, 128, 128), "llama", TgiJob(), None)
    'flashinfer'
    """
    if job.attention:
        return job.attention
    capability = device.capability if device else None
    old = capability is not None and capability < AMPERE
    if kept.key_dim in FLASHINFER_HEADS and model_type not in FALLING_BACK:
        return "flashinfer"
    return "paged" if old else "flashdecoding"


def deploy(found: Subject, job: TgiJob, devices: Sequence[Device]) -> Deployment:
    """Return what is on the devices: a pool of blocks as large as what the warm-up leaves."""
    check_devices(devices, job.num_shard, NAME, "--num-shard")
    longest = job.max_total_tokens or job.context or found.model.context_length
    if longest is None:
        raise UsageError("This config does not say how long a context may be.", "Say --max-total-tokens.")
    made, kernels = _block(found, job, devices[0] if devices else None)
    spread = Spread(job.num_shard, job.num_shard)
    held = on_device(found.model, format_of(found, job.format, job.dtype, job.quantize), spread)
    weights = Item("weights", "weights", held.reserved_bytes, safe=held.reserved_bytes + held.rounding_bytes)
    limits = {
        "context": longest_of(found.model, job.max_total_tokens, longest, "--max-total-tokens"),
        "concurrency": Limit(job.max_concurrent_requests, "--max-concurrent-requests"),
    }
    assumed: tuple[str, ...] = (
        f"TGI 3.3.7, its attention by {kernels}",
        taken_for_granted(found.model, NAME),
        "activations are between what the widest map and all maps of a layer make",
    )
    if not devices:
        return Deployment(
            (share_unknown(job.num_shard, (weights,), made),), job.context or longest, (), limits, assumed
        )
    tokens = job.max_batch_prefill_tokens
    if tokens is None:
        tokens = prefill_tokens(found.source.config or {}, devices[0], job.num_shard, job.cuda_memory_fraction)
        assumed = (*assumed, f"--max-batch-prefill-tokens {tokens}: what the launcher takes by itself")
    least, most = step_bytes(found.model, spread, tokens, 1)
    warmed = Item("activations of the warm-up", "activations", least, safe=most, source="rule", evidence=WARMED)
    items = (weights, warmed, *beside(devices[0], job.num_shard))
    capacity = devices[0].capacity_bytes * job.cuda_memory_fraction * WIGGLE_ROOM
    blocks, safe = (max(0, int(capacity - each)) // made.n_bytes for each in taken(items))
    share = share_of(devices[0], job.num_shard, items, made, blocks)
    return Deployment((share,), job.context or longest, _printed(made, blocks, safe, held.n_bytes), limits, assumed)


def _printed(made: Block, blocks: int, safe: int, weights: int) -> tuple[Printed, ...]:
    tokens, least, kv = blocks * made.tokens, safe * made.tokens, blocks * made.n_bytes / GIB
    return (
        Printed("weights_gib", f"weights: {weights / GIB:.2f} GiB", weights / GIB),
        Printed("kv_blocks", f"KV-cache blocks: {blocks}, size: {made.tokens}", blocks, safe),
        Printed("kv_tokens", f"Setting max batch total tokens to {tokens}", tokens, least),
        Printed("kv_cache_gib", f"of it: {kv:.2f} GiB", kv, safe * made.n_bytes / GIB),
    )


def _block(found: Subject, job: TgiJob, device: Device | None) -> tuple[Block, str]:
    caches = token_caches(found.model, NAME, latent=False)
    kernels = attention(caches[0][0], found.model.decoder_type, job, device)
    width = 1 if job.kv_cache_dtype != "auto" else 2
    total = 0
    for kept, layers in caches:
        heads = kept.heads // job.num_shard if kept.heads > 1 else kept.heads
        if not heads:
            raise UsageError(f"TGI cannot share {kept.heads} key heads among {job.num_shard} devices.", "Say fewer.")
        total += layers * heads * 2 * kept.key_dim * width
    return Block(BLOCK_TOKENS[kernels], total), kernels


def command(model: str, job: TgiJob) -> list[str]:
    """Return the words that start a server."""
    job = replace(job, max_total_tokens=job.max_total_tokens or job.context)
    plain, words = TgiJob(), ["text-generation-launcher", "--model-id", model]
    for each in fields(job):
        if each.metadata.get("flags") and getattr(job, each.name) != getattr(plain, each.name):
            said = spelled(ENGINE, each.name, getattr(job, each.name))
            words = words + said if said[0].startswith("-") else [f"{said[0]}={said[1]}", *words]
    return words


_HARMLESS = """--trust-remote-code --json-output --disable-grammar-support --env --port= -p= --hostname= --revision=
    --validation-workers= --max-best-of= --max-stop-sequences= --max-top-n-tokens= --waiting-served-ratio=
    --max-waiting-tokens= --prometheus-port= --shard-uds-path= --master-addr= --master-port= --huggingface-hub-cache=
    --weights-cache-override= --otlp-endpoint= --otlp-service-name= --cors-allow-origin= --api-key=
    --tokenizer-config-path= --max-client-batch-size= --usage-stats= --payload-limit= --graceful-termination-timeout="""
REFUSED = {
    "--max-batch-total-tokens": "its cache is as large as that", "--lora-adapters": "it keeps adapters on the device",
    "--speculate": "it keeps drafts", "--cuda-graphs": "graphs are captured beside the cache",
    "--rope-scaling": "it changes what the config says", "--enable-prefill-logprobs": "it keeps scores of all tokens",
    "--sharded": "say --num-shard", "--max-batch-size": "how many requests run is not known then",
}  # fmt: skip
ENGINE = Engine(
    "tgi", "Text Generation Inference", "text-generation-inference 3.3.7: models/flash_causal_lm.py, warmup", TgiJob,
    (("text-generation-launcher",), ("docker", "ghcr.io/huggingface/text-generation-inference")), deploy, command,
    models=("--model-id",), harmless=frozenset(_HARMLESS.split()), refused=REFUSED,
    formats=("bf16", "fp8", "awq"),
    hub=True,
    vendors=("nvidia", "amd"),
)  # fmt: skip
