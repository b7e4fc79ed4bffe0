"""LM Studio: a llama.cpp with its own defaults. Its sources are closed: what is known is what its documentation says.

Four requests at a time share one cache of the context length; micro-batches of 512 tokens. Source: lmstudio.ai/docs
(cli/load, app/advanced/parallel-requests, typescript/api-reference/llm-load-model-config), read in November 2026.
Models in MLX's format are served by the engine mlx.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oomph.engines.base import Deployment, Engine, ServeJob, flag
from oomph.engines.checks import typed
from oomph.engines.llamacpp import GGUF
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.errors import UsageError

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device

SOURCE = "lmstudio.ai/docs, November 2026"
CONTEXT = 4096  # where a model was never loaded with another
PARALLEL = 4  # Max Concurrent Predictions
BATCH = 512  # Evaluation Batch Size
DOCUMENTED = "LM Studio's sources are closed: its llama.cpp runtime is taken to allocate as llama-server does"


@dataclass(frozen=True)
class LmStudioJob(ServeJob):
    """What `lms load` and the load parameters of the app say. `gpu` is max, off or the share of the layers on GPUs;
    `context_length` is of all requests together, which share it; `parallel` of None is 4, or as many as are asked for.
    """

    context_length: int | None = flag(None, "--context-length", help="tokens of the cache, of all requests together")
    gpu: str = flag("max", "--gpu", help="max, off, or a share of the layers: 0.5")
    parallel: int | None = flag(None, "--parallel", help="requests at a time")
    k_cache: str = flag("f16", "llamaKCacheQuantizationType", help="ggml type of keys")
    v_cache: str = flag("f16", "llamaVCacheQuantizationType", help="ggml type of values")
    flash_attention: bool = flag(True, "flashAttention", help="flash attention")
    offload_kv_cache: bool = flag(True, "offloadKVCacheToGpu", help="the cache goes with its layers")
    batch: int = flag(BATCH, "evalBatchSize", help="tokens that are taken in at a time")
    mmap: bool = flag(True, "tryMmap", help="weights of the machine's memory are mapped from the file")

    def __post_init__(self) -> None:
        """Refuse values of another type, or of no machine."""
        typed(self)

    def with_context(self, tokens: int) -> LmStudioJob:
        """Return the job with requests so long."""
        return replace(self, context=tokens, context_length=None)


def deploy(found: Subject, job: LmStudioJob, devices: Sequence[Device] = ()) -> Deployment:
    """Return a model in LM Studio's llama.cpp; raises UnsupportedError for what is not modelled."""
    from oomph.engines.llamacpp.deploy import deploy as deployed
    from oomph.engines.llamacpp.served import known

    asked = job.context or job.context_length
    context = asked or min(CONTEXT, found.model.context_length or CONTEXT)
    layers = known(found, job.format).file.layers
    served = deployed(
        found,
        LlamaCppJob(
            context=job.context or (None if job.context_length else context),
            concurrency=job.concurrency,
            format=job.format,
            ctx_size=job.context_length if job.context is None else None,
            parallel=job.parallel,
            kv_unified=True,
            batch_size=job.batch,
            ubatch_size=min(job.batch, BATCH),
            gpu_layers=gpu_layers(job.gpu, layers),
            flash_attn="on" if job.flash_attention else "off",
            cache_type_k=job.k_cache,
            cache_type_v=job.v_cache,
            kv_offload=job.offload_kv_cache,
            mmap=job.mmap,
            cache_ram=0,
        ),
        devices,
    )
    said = () if asked else (f"--context-length not given: {context:,} tokens, LM Studio's default",)
    more = job.parallel is None and job.concurrency > PARALLEL
    slots = (f"Max Concurrent Predictions raised to {job.concurrency}",) if more else ()
    kept = tuple(each for each in served.assumptions if not each.startswith(("-np", "-ngl", "no context")))
    placed = ("all layers on the GPUs; --gpu 0.5 puts half of them there",) if job.gpu == "max" else ()
    return replace(served, assumptions=(DOCUMENTED, *said, *slots, *placed, *kept))


def gpu_layers(asked: str, layers: int) -> int | None:
    """Return how many layers go to GPUs, the output layer counted as one; None for all.

    >>> gpu_layers("max", 32), gpu_layers("off", 32), gpu_layers("0.5", 32)
    (None, 0, 16)
    """
    if asked == "max":
        return None
    if asked == "off":
        return 0
    try:
        share = float(asked)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(f"--gpu {str(asked)[:20]!r} is no share.", "Write max, off, or a number from 0 to 1.")
    return None if share == 1 else int(share * layers)


def command(model: str, job: LmStudioJob) -> list[str]:
    """Return the words that load the model; what the command line does not have is set in the app."""
    context = job.context * job.concurrency if job.context else job.context_length
    parallel = job.parallel or max(PARALLEL, job.concurrency)
    words = ["lms", "load", model]
    for name, value, usual in (
        ("--context-length", context, None), ("--gpu", job.gpu, "max"), ("--parallel", parallel, PARALLEL)
    ):  # fmt: skip
        if value != usual:
            words += [name, str(value)]
    return words


ENGINE = Engine(
    name="lm-studio",
    title="LM Studio",
    source=SOURCE,
    job=LmStudioJob,
    starts=(("lms", "load"),),
    deploy=deploy,
    command=command,
    models=(),
    harmless=frozenset({"--ttl=", "--identifier=", "--estimate-only", "-y", "--yes", "--exact"}),
    formats=GGUF,
)
