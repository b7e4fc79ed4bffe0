"""Ollama: a llama-server of its own choosing, started with a context by the GPUs' memory and slots side by side.

What it keeps for itself is which flags llama.cpp gets; what those take is llama.cpp's. Source: ollama fb307609
(August 2026): llm/llama_server.go, server/sched.go, server/routes.go, envconfig/config.go, ml/device.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from oomph.engines.base import Deployment, Engine, Limit, ServeJob, Share, flag, with_items
from oomph.engines.checks import typed
from oomph.engines.llamacpp import GGUF
from oomph.engines.llamacpp.job import LlamaCppJob
from oomph.errors import UnsupportedError, UsageError
from oomph.ledger import Item
from oomph.units import GIB, MIB

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device

SOURCE = "ollama fb307609"
# Tokens of a request where nobody says how many, by the memory of all GPUs together (routes.go).
CONTEXTS = ((47 * GIB, 262144), (23 * GIB, 32768), (0, 4096))
# Tokens that are taken in at a time, for contexts longer than so many; what Ollama adds to its forecast for them, and
# how many percent of the free memory the forecast may be (sched.go).
BATCHES = ((32768, 2048, 2 * GIB, 60), (4096, 1024, 768 * MIB, 75), (0, 512, 0, 100))
FULL = 80  # percent of the free memory that forecasts stay under
FEW, WITHOUT_FLASH = 256, 512  # tokens at a time without flash attention, on a small GPU or any
SMALL_GPU = 8 * GIB
OLDEST, NEVER = (6, 0), (7, 2)  # compute capabilities: flash attention from the one on, never on the other
# Architectures of llama.cpp that get one slot, whatever is asked for (sched.go).
ONE_SLOT = frozenset({
    "mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe", "nemotron_h",
    "nemotron_h_moe", "nemotron_h_omni",
})  # fmt: skip
FLASH = {"": "auto", "auto": "auto", "1": "on", "true": "on", "0": "off", "false": "off"}
VARIABLES = ("OLLAMA_CONTEXT_LENGTH", "OLLAMA_NUM_PARALLEL", "OLLAMA_KV_CACHE_TYPE", "OLLAMA_FLASH_ATTENTION",
             "OLLAMA_GPU_OVERHEAD")  # fmt: skip
LAYERS = "num_gpu not given: all layers on the GPUs; where they do not fit, Ollama's server puts fewer there by itself"
PARAMETERS = ("num_gpu", "num_batch", "main_gpu")  # of a Modelfile or a request; there is no variable for them


@dataclass(frozen=True)
class OllamaJob(ServeJob):
    """What `ollama serve` and a model's parameters say. More requests than `num_parallel` wait for each other.
    `gpu_overhead` in bytes, of every GPU."""

    num_ctx: int | None = flag(None, "OLLAMA_CONTEXT_LENGTH", "num_ctx", help="tokens of one request")
    num_parallel: int = flag(1, "OLLAMA_NUM_PARALLEL", help="requests at a time")
    kv_cache_type: str = flag("f16", "OLLAMA_KV_CACHE_TYPE", help="f16, q8_0 or q4_0 keys and values")
    flash_attention: str = flag("auto", "OLLAMA_FLASH_ATTENTION", help="1, 0 or auto")
    gpu_overhead: int = flag(0, "OLLAMA_GPU_OVERHEAD", help="bytes of each GPU that are not counted on")
    num_gpu: int | None = flag(None, "num_gpu", help="layers on GPUs")
    num_batch: int | None = flag(None, "num_batch", help="tokens that are taken in at a time")
    main_gpu: int | None = flag(None, "main_gpu", help="the only GPU that is used")
    use_mmap: bool = flag(True, "use_mmap", help="weights of the machine's memory are mapped from the file")

    def __post_init__(self) -> None:
        """Refuse values of another type, or of no machine."""
        typed(self)

    def with_context(self, tokens: int) -> OllamaJob:
        """Return the job with requests so long."""
        return replace(self, context=tokens, num_ctx=None)


def deploy(found: Subject, job: OllamaJob, devices: Sequence[Device] = ()) -> Deployment:
    """Return a model in the llama-server that Ollama starts; raises UnsupportedError for what is not modelled."""
    from oomph.engines.llamacpp.deploy import deploy as deployed
    from oomph.engines.llamacpp.served import known

    context, assumed = _context(found, job, devices)
    model = known(found, job.format)
    arch = model.sizes.arch
    slots = 1 if arch in ONE_SLOT else max(job.num_parallel, 1)
    flash = _flash(job, devices)
    batch = job.num_batch
    if batch is None:
        # Its own forecast: the file, and keys and values of every layer in F16 by the smallest of them.
        weights = sum(tensor.n_bytes for tensor in model.file.tensors)
        widths = [each.k for each in model.sizes.kept if each.k]
        cached = 2 * 2 * len(model.sizes.kept) * min(widths, default=0) * context * slots
        batch = automatic_batch(context * slots, weights + cached, flash, devices)
        assumed = (*assumed, f"num_batch not given: {batch}, by the context and the memory that is free")
    served = deployed(found, _server(job, context, slots, flash, batch), devices)
    limits = {"concurrency": Limit(slots, _why(job, arch))}
    shares = tuple(_reserved(share, job.gpu_overhead) for share in served.shares)
    # What llama.cpp says of its own choices does not hold: Ollama makes them, under names of its own.
    kept = tuple(each for each in served.assumptions if not each.startswith(("-np", "-ngl", "no context")))
    layers = () if job.num_gpu is not None else (LAYERS,)
    return replace(
        served,
        shares=shares,
        context=context,
        limits=limits,
        assumptions=(*assumed, *layers, *kept, *_modelfile_words(job)),
    )


def _server(job: OllamaJob, context: int, slots: int, flash: str, batch: int) -> LlamaCppJob:
    """Return the llama-server that Ollama starts: `-c` of all slots, `-b` and `-ub` alike."""
    return LlamaCppJob(
        context=context,
        concurrency=min(job.concurrency, slots),
        format=job.format,
        parallel=slots,
        batch_size=batch,
        ubatch_size=batch,
        gpu_layers=job.num_gpu,
        flash_attn=flash,
        cache_type_k=job.kv_cache_type,
        cache_type_v=job.kv_cache_type,
        mmap=job.use_mmap,
        split_mode="layer" if job.main_gpu is None else "none",
        main_gpu=job.main_gpu or 0,
    )


def _context(found: Subject, job: OllamaJob, devices: Sequence[Device]) -> tuple[int, tuple[str, ...]]:
    """Return the tokens of one request: what was asked for, else by the GPUs' memory, never more than the model's."""
    asked = job.context or job.num_ctx
    trained = found.model.context_length
    if asked:
        return asked, ()
    memory = sum(max(0, device.capacity_bytes - job.gpu_overhead) for device in devices)
    context = next(tokens for least, tokens in CONTEXTS if memory >= least)
    shown = f"{memory / GIB:.1f} GiB of GPU memory" if devices else "an unknown GPU"
    context = min(context, trained or context)
    return context, (f"num_ctx not given: {context:,} tokens, Ollama's choice for {shown}",)


def automatic_batch(context: int, forecast: int, flash: str, devices: Sequence[Device]) -> int:
    """Return the tokens that are taken in at a time: more for a long context, fewer where the forecast leaves no room.

    >>> [automatic_batch(context, 0, "auto", ()) for context in (4096, 8192, 65536)]
    [512, 1024, 2048]
    """
    if flash == "off" and any(device.vendor == "nvidia" for device in devices):
        small = any(device.capacity_bytes <= SMALL_GPU for device in devices)
        return FEW if small and context > BATCHES[1][0] else WITHOUT_FLASH
    memory = sum(device.capacity_bytes for device in devices)
    for longer, batch, more, percent in BATCHES:
        room = forecast + more <= memory * FULL // 100 and forecast <= memory * percent // 100
        if context > longer and (not memory or not forecast or room):
            return batch
    return BATCHES[-1][1]


def _flash(job: OllamaJob, devices: Sequence[Device]) -> str:
    """Return llama-server's --flash-attn: as asked for, else auto where every GPU can."""
    asked = str(job.flash_attention).lower()
    if asked not in FLASH:
        raise UsageError(f"OLLAMA_FLASH_ATTENTION={asked[:20]!r} is not known.", "Write 1 or 0, or leave it out.")
    if FLASH[asked] != "auto":
        return FLASH[asked]
    known = [device.capability for device in devices if device.vendor == "nvidia" and device.capability]
    return "off" if any(each < OLDEST or each == NEVER for each in known) else "auto"


def _why(job: OllamaJob, arch: str) -> str:
    if arch in ONE_SLOT:
        return f"Ollama gives {arch} one slot"
    return f"OLLAMA_NUM_PARALLEL is {max(job.num_parallel, 1)}: others wait"


def _reserved(share: Share, overhead: int) -> Share:
    """Return a GPU's share with what Ollama does not count on."""
    if overhead < 0:
        raise UsageError("OLLAMA_GPU_OVERHEAD is bytes.", "Write a number that is not below 0.")
    if not overhead or share.room_bytes is None:
        return share
    item = Item("OLLAMA_GPU_OVERHEAD", "runtime", overhead, source="rule", evidence=SOURCE)
    return with_items(share, item)


def parameters(job: OllamaJob) -> dict[str, int]:
    """Return what only a Modelfile or a request can say."""
    return {name: getattr(job, name) for name in PARAMETERS if getattr(job, name) is not None}


def modelfile(model: str, job: OllamaJob) -> str:
    """Return a Modelfile with the job's parameters.

    >>> print(modelfile("./llama.gguf", OllamaJob(context=8192, num_gpu=20)), end="")
    FROM ./llama.gguf
    PARAMETER num_ctx 8192
    PARAMETER num_gpu 20
    """
    if any(len(line) != len(model) for line in model.splitlines()[:1]) or not model.strip():
        raise UnsupportedError("A Modelfile names its model in one line.", "Name the model or its file.")
    context = job.context or job.num_ctx
    said = ({"num_ctx": context} if context else {}) | parameters(job)
    return "".join([f"FROM {model}\n", *(f"PARAMETER {name} {value}\n" for name, value in said.items())])


def _modelfile_words(job: OllamaJob) -> tuple[str, ...]:
    found = parameters(job)
    if not found:
        return ()
    return ("in a Modelfile: " + ", ".join(f"PARAMETER {name} {value}" for name, value in found.items()),)


def command(model: str, job: OllamaJob) -> list[str]:
    """Return the words that run the model; the variables are those of the server (`ollama serve`)."""
    context = job.context or job.num_ctx
    values = (context, job.num_parallel, job.kv_cache_type, job.flash_attention, job.gpu_overhead)
    usual = (None, 1, "f16", "auto", 0)
    said = [f"{name}={value}" for name, value, plain in zip(VARIABLES, values, usual, strict=True) if value != plain]
    return [*said, "ollama", "run", model]


ENGINE = Engine(
    name="ollama",
    title="Ollama",
    source=SOURCE,
    job=OllamaJob,
    starts=(("ollama", "run"), ("ollama", "serve"), ("docker", "ollama/ollama")),
    deploy=deploy,
    command=command,
    harmless=frozenset({
        "OLLAMA_HOST=", "OLLAMA_MODELS=", "OLLAMA_KEEP_ALIVE=", "OLLAMA_DEBUG=", "OLLAMA_ORIGINS=", "OLLAMA_NOPRUNE=",
        "OLLAMA_MAX_QUEUE=", "OLLAMA_LOAD_TIMEOUT=", "OLLAMA_NOHISTORY=", "--verbose", "--keepalive=", "--format=",
        "--think=", "--nowordwrap", "--insecure", "--hidethinking",
    }),
    refused={"OLLAMA_MAX_LOADED_MODELS": "several models beside each other"},
    formats=GGUF,
)  # fmt: skip
