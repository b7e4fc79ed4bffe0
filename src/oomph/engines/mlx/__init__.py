"""MLX (mlx-lm) on Apple silicon: weights as they lie in the files, caches that grow by steps, kernels on their way.

Everything is one memory, of which Metal recommends a part to the GPU; mlx-lm prints the peak of what its arrays took.
Source: mlx-lm 0.32.2 generate.py, server.py, models/cache.py, utils.py; mlx 0.32.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from oomph import formats, weigh
from oomph.blocks.base import Block
from oomph.blocks.cached import TokenCache
from oomph.caches import LayerCache, layer_caches
from oomph.engines.base import Deployment, Engine, Limit, ServeJob, Share, flag
from oomph.engines.checks import typed
from oomph.engines.mlx.caches import STEP, Kept, item_bytes, sequence_bytes
from oomph.engines.mlx.families import FAMILIES, WINDOWED
from oomph.engines.mlx.operations import Op, Pass, block_maps, layer_operations
from oomph.engines.mlx.stream import BASE, LARGE, PAGE, InFlight, Limits, in_flight
from oomph.errors import UnsupportedError, UsageError
from oomph.formats.base import Format
from oomph.formats.linear import OUTSIDE_DECODER
from oomph.ledger import Item, Printed
from oomph.structure import decoder_stack
from oomph.units import GB, GIB, MIB, human

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.model import Model

SOURCE = "mlx-lm 0.32.2, mlx 0.32.4"
KV_BITS = (2, 3, 4, 5, 6, 8)
AS_STORED = frozenset({"mlx", "mxfp4"})  # methods whose tensors lie in memory as they do in the files
DTYPES = frozenset({"bf16", "fp16", "fp32"})
REFUSED = {
    "--max-kv-size": "which models mlx-lm turns their caches round for is not known",
    "--draft-model": "a second model beside the first",
    "--adapter-path": "adapters beside the weights",
    "--pipeline": "several machines",
    "--quantize-activations": "copies of the activations",
    "-qa": "copies of the activations",
}
HARMLESS = frozenset({
    "--host=", "--port=", "--log-level=", "--temp=", "--top-p=", "--top-k=", "--min-p=", "--max-tokens=", "-m=",
    "--seed=", "--prompt=", "-p=", "--chat-template=", "--chat-template-args=", "--use-default-chat-template",
    "--trust-remote-code", "--allowed-origins=", "--verbose=", "--num-draft-tokens=", "--ignore-chat-template",
    "--system-prompt=", "--generation-tokens=", "-g=", "--num-trials=", "-n=", "--delay=", "--extra-eos-token=+",
    "--xtc-probability=", "--xtc-threshold=", "--min-tokens-to-keep=", "--prompt-cache-bytes=",
})  # fmt: skip


@dataclass(frozen=True)
class MlxJob(ServeJob):
    """What mlx_lm.server and mlx_lm.generate are asked for. `prompt`: tokens of the context that are read at the start,
    None all but the last. `wired_limit_mb`: what `sudo sysctl iogpu.wired_limit_mb` was set to, None Metal's own."""

    prompt: int | None = flag(None, "--prompt-tokens", help="tokens of the context that are the prompt")
    prefill_step_size: int = flag(2048, "--prefill-step-size", help="tokens of a prompt that are read at once")
    kv_bits: int | None = flag(None, "--kv-bits", help="bits of keys and values")
    kv_group_size: int = flag(64, "--kv-group-size", help="keys and values per scale and bias")
    quantized_kv_start: int = flag(5000, "--quantized-kv-start", help="tokens from which on they are quantised")
    decode_concurrency: int = flag(32, "--decode-concurrency", help="requests that are written at a time")
    prompt_concurrency: int = flag(8, "--prompt-concurrency", help="requests that are read at a time")
    prompt_cache_size: int = flag(10, "--prompt-cache-size", help="conversations whose caches the server keeps")
    wired_limit_mb: int | None = flag(None, "iogpu.wired_limit_mb", help="MiB that macOS lets the GPU have")

    def __post_init__(self) -> None:
        """Refuse values of another type, or of no machine."""
        typed(self)


@dataclass(frozen=True, eq=False)
class _Served:
    """A model in a format, as mlx-lm loads it: what any job of it needs."""

    weights: tuple[Item, ...]
    caches: tuple[LayerCache, ...]
    layers: tuple[Callable[[Pass], Sequence[Op]], ...]
    hidden: int
    windowed: bool
    item: int

    @property
    def weights_bytes(self) -> int:
        return sum(each.n_bytes for each in self.weights)


@lru_cache(maxsize=32)
def _served(model: Model, fmt: Format) -> _Served:
    """Return a text model in a format: mlx-lm drops towers, projectors and multi-token prediction when it loads."""
    items = [each for each in weigh.in_format(model, fmt).items if each.kind not in OUTSIDE_DECODER]
    stack = decoder_stack(model)[1].layers
    blocks = {id(layer): layer for layer in stack if isinstance(layer, Block)}
    builders = {
        key: partial(layer_operations, block_maps(layer, fmt, model), model.hidden_size)
        for key, layer in blocks.items()
    }
    layers = tuple(builders[id(layer)] for layer in stack if id(layer) in builders)
    windowed = model.decoder_type in WINDOWED
    return _Served(_rounded(items), layer_caches(model), layers, model.hidden_size, windowed, item_bytes(fmt.rest))


def _rounded(items: Sequence[Item]) -> tuple[Item, ...]:
    """Return items whose upper bound has a page more for every tensor: an array of more than a page is whole pages."""
    found = []
    for each in items:
        copies = 1
        for axis, size in each.axes:
            copies *= size if axis in ("layers", "tensors") else 1
        found.append(replace(each, safe=each.n_bytes + PAGE * copies))
    return tuple(found)


@lru_cache(maxsize=4096)
def _in_flight(served: _Served, at: Pass, limits: Limits) -> InFlight:
    layers = {id(build): build(at) for build in served.layers}
    return in_flight([layers[id(build)] for build in served.layers], at.rows * served.hidden, served.item, limits)


@dataclass(frozen=True)
class _Requests:
    """What requests of a context take: their caches, and kernels on their way while reading or writing."""

    served: _Served
    job: MlxJob
    kept: Kept
    limits: Limits

    def needs(self, context: Any, concurrency: Any) -> Any:
        """Return the bytes of so many requests at their largest; of arrays, cell by cell."""
        if isinstance(context, int) and isinstance(concurrency, int):
            return self._worst(context, concurrency)[0]
        from numpy import vectorize

        return vectorize(lambda *cell: self._worst(*map(int, cell))[0], otypes=["int64"])(context, concurrency)

    def held(self, context: int, concurrency: int) -> tuple[Item, ...]:
        """Return the same as items."""
        _, (before, more, reading), kernels = self._worst(context, concurrency)
        items = []
        for cache in self.served.caches:
            for cached in cache.cached:
                each = sequence_bytes(cached, self.kept, self.served.windowed, before, more, reading)
                tokens = isinstance(cached, TokenCache)
                name, group = ("keys and values", "kv_cache") if tokens else ("states", "state")
                axes = (("layers", len(cache.layers)), ("sequences", concurrency))
                total = int(each) * len(cache.layers) * concurrency
                items.append(Item(name, group, total, axes=axes, source="rule", evidence=SOURCE))
        passing = "read" if reading else "written"
        items.append(
            Item(f"arrays of kernels on their way, last tokens {passing}", "activations", kernels.n_bytes,
                 source="rule", evidence="mlx 0.32.4 transforms.cpp, backend/metal/eval.cpp")
        )  # fmt: skip
        return tuple(items)

    def _worst(self, context: int, concurrency: int) -> tuple[int, tuple[int, int, bool], InFlight]:
        """Return bytes, tokens and kernels of the end of reading or of writing, whichever takes more."""
        prompt = min(context, self.job.prompt or context)
        read, step = max(0, prompt - 1), self.job.prefill_step_size
        before = max(0, read - 1) // step * step
        ends = [(read, context - read, False, self._pass(1, _steps(context - 1), concurrency))]
        if read:
            at_once = min(concurrency, self.job.prompt_concurrency)
            ends.append((before, read - before, True, self._pass(min(step, read), before, at_once)))
        found = []
        for start, more, reading, at in ends:
            kernels = _in_flight(self.served, at, self.limits)
            found.append(
                (self._caches(start, more, reading) * concurrency + kernels.n_bytes, (start, more, reading), kernels)
            )
        return max(found, key=lambda each: each[0])

    @property
    def full_pass(self) -> Pass:
        """The first tokens of a long prompt."""
        return self._pass(self.job.prefill_step_size, 0, 1)

    def _pass(self, tokens: int, before: int, sequences: int) -> Pass:
        quantised = self.kept.bits is not None and before >= self.kept.start
        return Pass(tokens, before, sequences, quantised, self.served.windowed)

    def _caches(self, before: int, more: int, reading: bool) -> int:
        served = self.served
        return sum(
            len(cache.layers) * int(sequence_bytes(cached, self.kept, served.windowed, before, more, reading))
            for cache in served.caches
            for cached in cache.cached
        )


def _steps(tokens: int) -> int:
    """Return a number of tokens a little larger, so that few are told apart: 2048 or the step of a cache."""
    coarse = STEP if tokens < STEP * 8 else STEP * 8
    return -(-tokens // coarse) * coarse


def deploy(found: Subject, job: MlxJob, devices: Sequence[Device]) -> Deployment:
    """Return a model in mlx-lm: weights, and what requests take of the memory that the GPU may have."""
    _check(job, devices)
    model = found.model
    if model.decoder_type not in FAMILIES:
        raise UnsupportedError(f"mlx-lm has no class for {model.decoder_type}.", "Choose another engine.")
    fmt, assumed = _format(found, job)
    served = _served(model, fmt)
    requests = _Requests(
        served, job, Kept(served.item, job.kv_bits, job.kv_group_size, job.quantized_kv_start), _limits(devices)
    )
    context = job.context or model.context_length
    if context is None:
        raise UsageError("mlx-lm's caches grow with the tokens.", "Say how many: --context 8192.")
    if job.context is None:
        assumed.append(f"mlx-lm sets no context; the model's {context:,} tokens were taken")
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


def _margin(requests: _Requests) -> Item:
    """Return what kernels on their way may take more than in the order that is played."""
    kernels = _in_flight(requests.served, requests.full_pass, requests.limits)
    more = kernels.safe_bytes - kernels.n_bytes
    return Item("another order of kernels", "activations", 0, source="rule", evidence=SOURCE, safe=more)


def _check(job: MlxJob, devices: Sequence[Device]) -> None:
    if len(devices) > 1:
        raise UnsupportedError("oomph models MLX on one machine.", "Name one device.")
    if devices and devices[0].vendor != "apple":
        raise UnsupportedError(
            f"MLX on a {devices[0].name} is not modelled.", "Name an Apple device, such as m4-max-64gb."
        )
    if job.prefill_step_size < 1 or job.prefill_step_size % STEP:
        raise UnsupportedError(
            f"A --prefill-step-size of {job.prefill_step_size} is not modelled.", f"Choose a multiple of {STEP}."
        )
    if job.kv_bits is not None and job.kv_bits not in KV_BITS:
        raise UsageError(f"MLX has no {job.kv_bits} bits.", f"Choose one of {', '.join(map(str, KV_BITS))}.")
    for name in ("kv_group_size", "decode_concurrency", "prompt_concurrency", "concurrency"):
        if getattr(job, name) < 1:
            raise UsageError(f"{name} is {getattr(job, name)}.", "It is at least 1.")


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


def _warnings(requests: _Requests, context: int) -> tuple[str, ...]:
    kept = requests._caches(0, context, False)
    most = requests.job.prompt_cache_size
    return (
        f"mlx_lm.server keeps the caches of up to {most} conversations: at {context:,} tokens each {human(kept)} more.",
    )


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
    (("mlx_lm.server",), ("mlx_lm.generate",), ("mlx_lm.benchmark",)),
    deploy,
    command,
    formats=("bf16", "mlx-8bit", "mlx-6bit", "mlx-5bit", "mlx-4bit", "mlx-3bit", "mlx-2bit"),
    harmless=HARMLESS,
    refused=REFUSED,
    hub=True,
)
