"""TensorRT-LLM with its PyTorch backend: a share of what a step leaves free becomes blocks of tokens.

It loads a model, runs a step as large as can come, and takes `free_gpu_memory_fraction` of what was never taken for
blocks of 32 tokens. Windows are kept whole unless a config says otherwise. Source: TensorRT-LLM 1.x,
tensorrt_llm/_torch/pyexecutor/_util.py (_cal_max_memory) and resource_manager.py (calculate_max_num_blocks,
get_cache_bytes_per_token); llmapi/llm_args.py for defaults.
"""

from __future__ import annotations

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
from oomph.engines.shards import Spread, format_of, on_device, step_bytes
from oomph.errors import UnsupportedError, UsageError
from oomph.ledger import Item, Printed
from oomph.units import GIB

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.model import Model

NAME = "TensorRT-LLM"
KV_BYTES = {"fp8": 1, "fp16": 2, "float16": 2, "bf16": 2, "bfloat16": 2}
BLOCKS = (1, 2, 4, 8, 16, 32, 64, 128)
PROFILED = "_torch/pyexecutor/_util.py, _cal_max_memory"


@dataclass(frozen=True)
class TrtllmJob(ServeJob):
    """A `trtllm-serve` command with the PyTorch backend; `free_gpu_memory_fraction` and what follows may be in a YAML.

    Raises UsageError for values it does not take.
    """

    max_seq_len: int | None = flag(None, "--max-seq-len", help="tokens of a request, at most")
    free_gpu_memory_fraction: float = flag(
        0.9, "--kv-cache-free-gpu-memory-fraction", "--free-gpu-memory-fraction", help="share of what is free"
    )
    max_tokens: int | None = flag(None, "--kv-cache-config.max-tokens", help="tokens of the cache, at most")
    tokens_per_block: int = flag(32, "--kv-cache-config.tokens-per-block", help="tokens of a block")
    kv_cache_dtype: str = flag("auto", "--kv-cache-dtype", help="of keys and values")
    max_num_tokens: int = flag(8192, "--max-num-tokens", help="tokens of a step, at most")
    max_batch_size: int = flag(2048, "--max-batch-size", help="requests in a step, at most")
    tensor_parallel: int = flag(1, "--tp-size", "--tensor-parallel-size", help="devices that share each layer")
    backend: Literal["pytorch"] = flag("pytorch", "--backend", help="the one whose rules are known")
    expert_parallel: int = flag(1, "--ep-size", "--moe-expert-parallel-size", help="devices that share experts whole")

    @property
    def ranks(self) -> int:
        """Devices that it takes."""
        return self.tensor_parallel

    def with_context(self, tokens: int) -> TrtllmJob:
        """Return the job with requests so long, and no longer ones."""
        return replace(self, context=tokens, max_seq_len=None)

    def __post_init__(self) -> None:
        """Refuse what it would not start with."""
        for name in (
            "max_seq_len",
            "max_tokens",
            "max_num_tokens",
            "max_batch_size",
            "tensor_parallel",
            "expert_parallel",
        ):
            whole(f"--{name.replace('_', '-')}", getattr(self, name))
        if not 0 < self.free_gpu_memory_fraction < 1:
            raise UsageError("--kv-cache-free-gpu-memory-fraction is above 0 and below 1.")
        if self.tokens_per_block not in BLOCKS:
            raise UsageError(
                f"A block of {str(self.tokens_per_block)[:20]} tokens is none: it is a power of 2 up to 128."
            )
        if self.kv_cache_dtype != "auto" and self.kv_cache_dtype not in KV_BYTES:
            raise UnsupportedError(
                f"--kv-cache-dtype {self.kv_cache_dtype[:40]} is not modelled.", f"Known: {', '.join(KV_BYTES)}."
            )
        if self.tensor_parallel % self.expert_parallel:
            raise UsageError("--ep-size must divide --tp-size.", "Choose one that does.")


def block(model: Model, job: TrtllmJob, width: int) -> Block:
    """Return a block on one device: heads of keys rounded up among devices, latent vectors whole.

    >>> from oomph import load
    >>> block(load("llama-3.1-8b"), TrtllmJob(), 2)
    Block(tokens=32, token_bytes=131072)
    """
    total = 0
    for kept, layers in token_caches(model, NAME, latent=True):
        heads = 1 if kept.kind == "latent" else -(-kept.heads // job.tensor_parallel)
        total += layers * heads * (kept.key_dim + kept.value_dim) * width
    return Block(job.tokens_per_block, total)


def deploy(found: Subject, job: TrtllmJob, devices: Sequence[Device]) -> Deployment:
    """Return what is on the devices: a pool of blocks as large as what a full step leaves."""
    check_devices(devices, job.tensor_parallel, NAME, "--tp-size")
    longest = job.max_seq_len or job.context or found.model.context_length
    if longest is None:
        raise UsageError("This config does not say how long a context may be.", "Say --max-seq-len.")
    made = block(found.model, job, _width(found, job))
    spread = Spread(job.tensor_parallel, job.tensor_parallel, job.expert_parallel)
    held = on_device(found.model, format_of(found, job.format), spread)
    least, most = step_bytes(found.model, spread, job.max_num_tokens, min(job.max_batch_size, job.max_num_tokens))
    items: tuple[Item, ...] = (
        Item("weights", "weights", held.n_bytes, safe=held.n_bytes + held.rounding_bytes),
        Item("activations of the largest step", "activations", least, safe=most, source="rule", evidence=PROFILED),
    )
    limits = {
        "context": longest_of(found.model, job.max_seq_len, longest, "--max-seq-len"),
        "concurrency": Limit(job.max_batch_size, "--max-batch-size"),
    }
    assumed = (
        "TensorRT-LLM 1.x with its PyTorch backend",
        taken_for_granted(found.model, NAME),
        "activations are between what the widest map and all maps of a layer make",
    )
    if not devices:
        return Deployment(
            (share_unknown(job.tensor_parallel, items[:1], made),), job.context or longest, (), limits, assumed
        )
    items = (*items, *beside(devices[0], job.tensor_parallel))
    blocks, safe = (_blocks(job, made, devices[0].capacity_bytes - each) for each in taken(items))
    share = share_of(devices[0], job.tensor_parallel, items, made, blocks)
    return Deployment((share,), job.context or longest, _printed(made, blocks, safe, held.n_bytes), limits, assumed)


def _width(found: Subject, job: TrtllmJob) -> int:
    if job.kv_cache_dtype != "auto":
        return KV_BYTES[job.kv_cache_dtype]
    quantization = (found.source.config or {}).get("quantization_config")
    said = quantization.get("kv_cache_quant_algo") if isinstance(quantization, dict) else None
    return 1 if str(said).upper() == "FP8" else 2


def _blocks(job: TrtllmJob, made: Block, free: int) -> int:
    tokens = max(0, int(free * job.free_gpu_memory_fraction)) // made.token_bytes
    return min(tokens, job.max_tokens or tokens) // made.tokens


def _printed(made: Block, blocks: int, safe: int, weights: int) -> tuple[Printed, ...]:
    kv, tokens = blocks * made.n_bytes / GIB, blocks * made.tokens
    line = f"[MemUsageChange] Allocated {kv:.2f} GiB for max tokens in paged KV cache ({tokens})."
    return (
        Printed("weights_gib", f"weights: {weights / GIB:.2f} GiB", weights / GIB),
        Printed("kv_cache_gib", line, kv, safe * made.n_bytes / GIB),
        Printed("kv_tokens", line, tokens, safe * made.tokens),
    )


def command(model: str, job: TrtllmJob) -> list[str]:
    """Return the words that start a server; its options are written with underscores."""
    job = replace(job, max_seq_len=job.max_seq_len or job.context)
    plain, words = TrtllmJob(), ["trtllm-serve", model]
    for each in fields(job):
        if each.metadata.get("flags") and getattr(job, each.name) != getattr(plain, each.name):
            name, *value = spelled(ENGINE, each.name, getattr(job, each.name))
            words += ["--" + name[2:].replace("-", "_"), *value]
    return words


HARMLESS = frozenset({"--trust-remote-code", "--host=", "--port=", "--tokenizer=", "--log-level="})
HARMLESS |= {
    "--reasoning-parser=",
    "--tool-parser=",
    "--num-postprocess-workers=",
    "--served-model-name=",
    "--revision=",
}
REFUSED = {
    "--pp-size": "stages of a pipeline are not", "--extra-llm-api-options": "what a YAML says is not read",
    "--config": "what a YAML says is not read", "--gpus-per-node": "machines of several nodes are not",
    "--max-beam-width": "beams keep caches of their own", "--cluster-size": "clusters are not",
}  # fmt: skip
ENGINE = Engine(
    "trtllm", NAME, "TensorRT-LLM 1.x: tensorrt_llm/_torch/pyexecutor/_util.py, resource_manager.py", TrtllmJob,
    (("trtllm-serve", "serve"), ("trtllm-serve",)), deploy, command, harmless=HARMLESS, refused=REFUSED,
    formats=("bf16", "modelopt-fp8", "modelopt-nvfp4"),
    hub=True,
    vendors=("nvidia",),
)  # fmt: skip
