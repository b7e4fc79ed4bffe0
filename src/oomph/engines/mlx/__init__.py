"""MLX (mlx-lm) on Apple silicon: weights as they lie in the files, caches that grow by steps, kernels on their way.

Everything is one memory, of which Metal recommends a part to the GPU; mlx-lm prints the peak of what its arrays took.
Source: mlx-lm 0.32.2 generate.py, server.py, models/cache.py, utils.py; mlx 0.32.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from oomph import formats
from oomph.blocks.cached import TokenCache
from oomph.caches import layer_caches
from oomph.engines.base import Deployment, Engine, Limit, Share
from oomph.engines.mlx.caches import Kept
from oomph.engines.mlx.families import FAMILIES
from oomph.engines.mlx.job import HARMLESS, LATENTS, REFUSED, MlxJob, check, release
from oomph.engines.mlx.requests import SOURCE, Requests, on_their_way, served_as
from oomph.engines.mlx.stream import BASE, LARGE, Limits
from oomph.engines.model_names import called
from oomph.errors import UnsupportedError, UsageError
from oomph.formats.mlx import MlxFormat
from oomph.ledger import Item, Printed
from oomph.units import GB, GIB, MIB, human

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.formats.base import Format
    from oomph.model import Model

AS_STORED = frozenset({"mlx", "mxfp4"})  # methods whose tensors lie in memory as they do in the files
DTYPES = frozenset({"bf16", "fp16", "fp32"})


def deploy(found: Subject, job: MlxJob, devices: Sequence[Device]) -> Deployment:
    """Return a model in mlx-lm: weights, and what requests take of the memory that the GPU may have."""
    check(job, devices)
    model = found.model
    if model.decoder_type not in FAMILIES:
        raise UnsupportedError(f"mlx-lm has no class for {model.decoder_type}.", "Choose another engine.")
    fmt, assumed = _format(found, job)
    if release(job) < LATENTS and any(each.kind == "latent" for each in _tokens(model)):
        raise UnsupportedError("mlx-lm kept keys and values of all heads before 0.30.6.", "Leave the version out.")
    served = served_as(model, fmt)
    requests = Requests(
        served, job, Kept(served.item, job.kv_bits, job.kv_group_size, job.quantized_kv_start), _limits(devices)
    )
    context = job.context or model.context_length
    if context is None:
        raise UsageError("mlx-lm's caches grow with the tokens.", "Say how many: --context 8192.")
    if job.context is None:
        assumed.append(f"mlx-lm sets no context; the model's {context:,} tokens were taken")
    flags = conversion(job.format)
    if flags is not None:
        source = found.source.repo or found.source.name
        folder = called(ENGINE, source, job.format)
        assumed.append(f"mlx_lm.convert --hf-path {source} {flags} --mlx-path {folder} was run before")
    if job.prompt is None:
        assumed.append("the whole context is read as a prompt; --prompt-tokens says how much of it")
    capacity = _capacity(job, devices)
    share = Share(
        "memory",
        (*served.weights, _margin(requests)),
        requests.needs,
        requests.held,
        None if capacity is None else capacity - served.weights_bytes,
        capacity,
    )
    peak = served.weights_bytes + requests.needs(context, job.concurrency)
    safe = peak + sum(each.safe_bytes - each.n_bytes for each in share.items)
    printed = Printed("peak_gib", f"Peak memory: {peak / GB:.3f} GB", peak / GIB, safe / GIB)
    return Deployment((share,), context, (printed,), _most(job), tuple(assumed), _warnings(requests, context))


def _margin(requests: Requests) -> Item:
    """Return what kernels on their way may take more than in the order that is played."""
    kernels = on_their_way(requests.served, requests.full_pass, requests.limits)
    more = kernels.safe_bytes - kernels.n_bytes
    return Item("another order of kernels", "activations", 0, source="rule", evidence=SOURCE, safe=more)


def _tokens(model: Model) -> list[TokenCache]:
    found = [each for layers in layer_caches(model) for each in layers.cached]
    return [each for each in found if isinstance(each, TokenCache)]


def _format(found: Subject, job: MlxJob) -> tuple[Format, list[str]]:
    """Return how the weights lie in memory, and what was assumed of that."""
    if job.format is not None:
        if job.format not in {*DTYPES, *AS_STORED} and not job.format.startswith("mlx-"):
            raise UnsupportedError(
                f"MLX does not load {job.format} as it is.", "Name one of its own: --format mlx-4bit."
            )
        return formats.get(job.format), []
    dtype = found.model.dtype or "bf16"
    asked = formats.asked_for(found.source.config or {})
    if asked is None:
        return formats.get(dtype if dtype in DTYPES else "bf16"), ["weights as they are published"]
    if formats.method_of(asked) not in AS_STORED:
        raise UnsupportedError(
            f"MLX converts {formats.method_of(asked)} weights while it loads them, which is not modelled.",
            "Name what they become: --format mlx-4bit.",
        )
    return formats.from_config(asked, dtype), []


def _limits(devices: Sequence[Device]) -> Limits:
    """Return what a command buffer holds: the GPUs of Max and Ultra chips, or one that is not known, take more."""
    named = devices[0].id.split("-") if devices else ["max"]
    return LARGE if {"max", "ultra"} & set(named) else BASE


def _capacity(job: MlxJob, devices: Sequence[Device]) -> int | None:
    if job.wired_limit_mb is not None:
        return job.wired_limit_mb * MIB
    return devices[0].capacity_bytes if devices else None


def _most(job: MlxJob) -> dict[str, Limit]:
    if job.kv_bits is not None:
        return {"concurrency": Limit(1, "with --kv-bits mlx-lm serves one request after the other")}
    return {"concurrency": Limit(job.decode_concurrency, f"--decode-concurrency is {job.decode_concurrency}")}


def _warnings(requests: Requests, context: int) -> tuple[str, ...]:
    kept = requests.cache_bytes(0, context)
    most = requests.job.prompt_cache_size
    return (
        f"mlx_lm.server keeps the caches of up to {most} conversations: at {context:,} tokens each {human(kept)} more.",
    )


PROGRAMS = ("mlx_lm.server", "mlx_lm.generate", "mlx_lm.benchmark")
STARTS = (
    *((name,) for name in PROGRAMS),
    *(("python", "-m", name) for name in PROGRAMS),
    *(("python", "-m", *name.split(".")) for name in PROGRAMS),
)


def conversion(name: str | None) -> str | None:
    """Return the flags of mlx_lm.convert that make a format, None where nothing is converted.

    >>> conversion("mlx-4bit-g32"), conversion("mlx-mxfp4"), conversion("mlx-mixed-3-6")
    ('-q --q-bits 4 --q-group-size 32', '-q --q-mode mxfp4', '-q --quant-predicate mixed_3_6')
    """
    if name is None or not name.startswith("mlx-"):
        return None
    fmt = formats.get(name)
    kind = name.removeprefix("mlx-")
    if kind.startswith("mixed-"):
        return f"-q --quant-predicate {kind.replace('-', '_')}"
    if not isinstance(fmt, MlxFormat) or not fmt.scheme.biased:
        return f"-q --q-mode {kind}"
    return f"-q --q-bits {fmt.scheme.bits} --q-group-size {fmt.scheme.group}"


def command(model: str, job: MlxJob) -> list[str]:
    """Return the words that start mlx-lm's server."""
    words = ["mlx_lm.server", "--model", model]
    for name, spelled in (("prefill_step_size", "--prefill-step-size"), ("kv_bits", "--kv-bits"),
                          ("kv_group_size", "--kv-group-size"), ("quantized_kv_start", "--quantized-kv-start"),
                          ("decode_concurrency", "--decode-concurrency"),
                          ("prompt_concurrency", "--prompt-concurrency"),
                          ("prompt_cache_size", "--prompt-cache-size")):  # fmt: skip
        if getattr(job, name) != getattr(MlxJob(), name):
            words += [spelled, str(getattr(job, name))]
    return words


ENGINE = Engine(
    "mlx",
    "MLX (mlx-lm)",
    SOURCE,
    MlxJob,
    STARTS,
    deploy,
    command,
    formats=("bf16", "mlx-8bit", "mlx-6bit", "mlx-5bit", "mlx-4bit", "mlx-3bit", "mlx-2bit"),
    harmless=HARMLESS,
    refused=REFUSED,
    hub=True,
)
