"""What both versions of ExLlama have in common: their flags, where layers go, and what lies beside them.

The token embedding stays in the machine's memory. Layers and their caches fill one GPU after the other, up to a
reserve; the head lies on the last one. A model with tied embeddings has a head of its own there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from oomph import formats, weigh
from oomph.blocks.cached import Cached
from oomph.caches import layer_caches
from oomph.constants import measured
from oomph.engines.base import Limit, ServeJob, Share, flag
from oomph.engines.checks import typed
from oomph.engines.serving import HOST
from oomph.errors import UnsupportedError, UsageError
from oomph.formats.base import Format
from oomph.formats.linear import OUTSIDE_DECODER
from oomph.ledger import Item
from oomph.structure import decoder_stack
from oomph.tensor import Tensor, Weight
from oomph.units import MIB

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.model import Model

PAGE = 256  # tokens of a page of the cache; a cache is whole pages
HALF = 2  # bytes of fp16, in which both versions compute
MOST_TOKENS = 2**27  # of a cache; no machine has room for one


@dataclass(frozen=True)
class ExllamaJob(ServeJob):
    """What TabbyAPI is asked for. `cache_size`: tokens of all requests together, None what is asked for here."""

    max_seq_len: int | None = flag(None, "--max-seq-len", help="tokens of one request")
    cache_size: int | None = flag(None, "--cache-size", help="tokens of all requests together")
    cache_mode: str = flag("FP16", "--cache-mode", help="how keys and values are kept: FP16, Q8, Q6, Q4, or 8,6")
    chunk_size: int = flag(2048, "--chunk-size", help="tokens of a prompt that are read at once")
    max_batch_size: int | None = flag(None, "--max-batch-size", help="requests at a time")
    autosplit_reserve: tuple[int, ...] = flag((96,), "--autosplit-reserve", help="MiB of each GPU that stay free")

    def __post_init__(self) -> None:
        """Refuse values of another type, or of no machine."""
        typed(self)

    def with_context(self, tokens: int) -> ExllamaJob:
        """Return the job with requests so long."""
        return replace(self, context=tokens, max_seq_len=None)


REFUSED = {
    "--tensor-parallel": "every layer cut among GPUs",
    "--gpu-split": "shares of GPUs chosen by hand",
    "--draft-model-name": "a second model beside the first",
    "--cpu-moe-offload-layers": "experts that the CPU runs",
    "--lora-dir": "adapters beside the weights",
}
HARMLESS = frozenset({
    "--host=", "--port=", "--model-dir=", "--config=", "--disable-auth=", "--gpu-split-auto=", "--prompt-template=",
    "--rope-scale=", "--rope-alpha=", "--backend=", "--output-chunking=", "--log-prompt=", "--log-requests=",
})  # fmt: skip
STARTS = (("start.sh",), ("start.bat",), ("python", "start.py"), ("python", "main.py"))


@dataclass(frozen=True, eq=False)
class Placed:
    """A model's weights where ExLlama puts them: bytes of each layer, items of all on GPUs, of what is behind the
    layers, and of what stays in the machine's memory."""

    layers: tuple[int, ...]
    items: tuple[Item, ...]
    tail: tuple[Item, ...]
    host: tuple[Item, ...]


@lru_cache(maxsize=32)
def placed(model: Model, fmt: Format) -> Placed:
    """Return a model's text part by layers; towers and prediction layers are not loaded."""
    layers = [0] * len(decoder_stack(model)[1].layers)
    for weight in model.weights:
        if weight.kind not in OUTSIDE_DECODER and weight.places:
            for layer in weight.places[0]:
                if layer < len(layers):
                    layers[layer] += sum(one.n_bytes for one in fmt.store(weight, model)) // len(weight.places[0])
    items = [each for each in weigh.in_format(model, fmt).items if each.kind not in OUTSIDE_DECODER]
    host = tuple(each for each in items if each.kind == "embedding")
    tail = tuple(each for each in items if each.axes[:1] != () and each.axes[0][0] != "layers" and each not in host)
    if model.tied:
        head = Weight("lm_head.weight", Tensor((model.vocab_size, model.hidden_size), "head"), "lm_head")
        made = tuple(
            Item(
                one.name,
                "weights",
                one.n_bytes,
                "lm_head",
                dtype=one.dtype,
                source="rule",
                evidence="a head of its own",
            )
            for one in fmt.store(head, model)
        )
        tail, items = (*tail, *made), [*items, *made]
    return Placed(tuple(layers), tuple(each for each in items if each not in host), tail, host)


@dataclass(frozen=True)
class Rules:
    """What a version of ExLlama does: bytes of layers' caches for tokens and slots, and what else is on each GPU.

    `cache(cached, tokens, slots)` of one layer; `beside(layers' caches, tokens, context)` once per GPU; `fixed` items
    once per GPU. `slots`: sequences that have a state of fixed size.
    """

    cache: Callable[[Cached, Any, Any], Any]
    beside: Callable[[Sequence[Cached], Any, Any], Any]
    fixed: tuple[Item, ...]
    source: str
    slots: int


def format_of(found: Subject, job: ExllamaJob, kinds: tuple[str, ...]) -> tuple[Format, tuple[str, ...]]:
    """Return how the weights are stored, one of the `kinds` that a version reads or fp16, and what was assumed."""
    asked = formats.asked_for(found.source.config or {})
    if job.format is None and asked is None:
        return formats.get("fp16"), ("weights as they are published, in fp16",)
    fmt = formats.from_config(asked or {}, "fp16") if job.format is None else formats.get(job.format)
    if fmt.name in ("bf16", "fp16"):
        return formats.get("fp16"), ()
    if not fmt.name.startswith(kinds):
        raise UnsupportedError(
            f"ExLlama does not read {fmt.name}.", f"Ask for {kinds[0]}-4.0bpw or fp16.".replace("3-4.0", "3-4")
        )
    return fmt, ()


def context_of(found: Subject, job: ExllamaJob) -> tuple[int, tuple[str, ...]]:
    """Return the tokens of a request, and what was assumed of that: TabbyAPI takes what the model was made for."""
    asked = job.context or job.max_seq_len
    context = asked or found.model.context_length
    if context is None:
        raise UsageError("The model does not say how long its context is.", "Say how long: --context 8192.")
    if not 1 <= context <= MOST_TOKENS or not 1 <= (job.cache_size or 1) <= MOST_TOKENS:
        raise UsageError("A cache of so many tokens is in no machine.", f"Ask for 1 to {MOST_TOKENS:,}.")
    if job.chunk_size < 1 or job.concurrency < 1 or (job.max_batch_size or 1) < 1:
        raise UsageError("Sizes of chunks and batches are at least 1.")
    return context, () if asked else (f"max_seq_len is that of the model: {context:,} tokens",)


def known(model: Model, families: frozenset[str], version: str) -> None:
    """Refuse a model of a family that a version does not have."""
    if model.decoder_type not in families:
        raise UnsupportedError(f"{version} does not run {model.decoder_type}.", "Choose another engine.")


def paged(tokens: Any) -> Any:
    """Return tokens in whole pages; ints or arrays.

    >>> paged(1), paged(512)
    (256, 512)
    """
    return -(-tokens // PAGE) * PAGE


def shares(
    found: Subject, fmt: Format, job: ExllamaJob, devices: Sequence[Device], rules: Rules, context: int
) -> tuple[Share, ...]:
    """Return one share for each GPU that layers are put on, and the machine's own memory."""
    where = placed(found.model, fmt)
    caches: list[list[Cached]] = [[] for _ in where.layers]
    for each in layer_caches(found.model):
        for layer in each.layers:
            caches[layer] += each.cached
    tokens = paged(job.cache_size) if job.cache_size else paged(context) * job.concurrency
    bounds = _split(where, caches, job, devices, rules, tokens, context)
    made = []
    for number, layers in enumerate(bounds):
        device = devices[number] if devices else None
        made.append(_share(where, caches[slice(*layers)], layers, job, device, rules, number, len(bounds), context))
    return (*made, Share(HOST, where.host, lambda context, concurrency: 0 * context, lambda context, concurrency: ()))


def _split(
    where: Placed, caches: Sequence[Sequence[Cached]], job: ExllamaJob, devices: Sequence[Device], rules: Rules,
    tokens: int, context: int,
) -> list[tuple[int, int]]:  # fmt: skip
    """Return which layers each GPU takes: as many as it has room for, the last one all that are left and the head."""
    if len(devices) <= 1:
        return [(0, len(where.layers))]
    pieces = (*where.layers, sum(each.n_bytes for each in where.tail))
    bounds, first = [], 0
    for number, device in enumerate(devices):
        room = device.capacity_bytes - sum(each.safe_bytes for each in _beside(job, device, rules, number))
        last = first
        while last < len(pieces):
            inside = [each for layer in caches[first : last + 1] for each in layer]
            needed = sum(pieces[first : last + 1]) + sum(rules.cache(each, tokens, rules.slots) for each in inside)
            if needed + rules.beside(inside, tokens, context) > room:
                break
            last += 1
        bounds.append((first, last))
        first = last
        if first == len(pieces):
            break
    bounds[-1] = (bounds[-1][0], len(pieces))
    return bounds


def _beside(job: ExllamaJob, device: Device | None, rules: Rules, number: int) -> tuple[Item, ...]:
    context = measured("cuda_context", device)
    reserve = job.autosplit_reserve[number] * MIB if number < len(job.autosplit_reserve) else MIB * 512
    return (
        *rules.fixed,
        Item(
            "CUDA context", "runtime", context.n_bytes, source="measured", evidence=context.evidence, safe=context.high
        ),
        Item("autosplit reserve", "runtime", reserve, source="rule", evidence=rules.source),
    )


def _share(
    where: Placed, caches: Sequence[Sequence[Cached]], layers: tuple[int, int], job: ExllamaJob, device: Device | None,
    rules: Rules, number: int, of: int, at: int,
) -> Share:  # fmt: skip
    inside = [each for layer in caches for each in layer]
    if of == 1:
        weights = where.items
    else:
        here = where.layers[slice(*layers)]
        title = f"layers {layers[0]} to {layers[0] + len(here) - 1}"
        of_layers = (Item(title, "weights", sum(here)),) if here else ()
        weights = (*of_layers, *(where.tail if number == of - 1 else ()))
    items = (*weights, *_beside(job, device, rules, number))
    capacity = device.capacity_bytes if device else None
    left = None if capacity is None else capacity - sum(each.n_bytes for each in items)

    def taken(tokens: Any, context: Any) -> Any:
        caches = sum(rules.cache(each, tokens, rules.slots) for each in inside)
        return caches + rules.beside(inside, tokens, context)

    def needs(context: Any, concurrency: Any) -> Any:
        return taken(paged(context) * concurrency, context)

    pool = job.cache_size is not None
    room, safe = left, None
    if pool and left is not None:
        whole = taken(paged(job.cache_size or 0), at)
        room = whole if whole <= left else left - whole
        certain = left - sum(each.safe_bytes - each.n_bytes for each in items)
        safe = whole if whole <= certain else certain - whole

    def held(context: int, concurrency: int) -> tuple[Item, ...]:
        tokens = paged(context) * concurrency
        kept = int(sum(rules.cache(each, tokens, rules.slots) for each in inside))
        other = int(rules.beside(inside, tokens, context))
        found = [Item("keys and values", "kv_cache", kept, source="rule", evidence=rules.source)]
        if other:
            found.append(Item("tables and one layer in fp16", "buffers", other, source="rule", evidence=rules.source))
        return tuple(found)

    name = "gpu" if of == 1 else f"gpu {number}"
    return Share(name, items, needs, held, room, capacity, pool, safe_room=safe)


def limits(job: ExllamaJob, context: int, most: int) -> dict[str, Limit]:
    """Return what is served at most, whatever memory there is."""
    found = {"concurrency": Limit(most, f"max_batch_size is {most}")}
    if job.cache_size is not None:
        found["context"] = Limit(paged(job.cache_size), f"cache_size is {job.cache_size:,}")
    return found


def command(model: str, job: ExllamaJob) -> list[str]:
    """Return the words that start TabbyAPI with the model."""
    words = ["python", "main.py", "--model-name", model]
    context = job.context or job.max_seq_len
    size = job.cache_size or (paged(context) * job.concurrency if context else None)
    usual = ExllamaJob()
    for name, value, default in (
        ("--max-seq-len", context, None),
        ("--cache-size", size, None),
        ("--cache-mode", job.cache_mode, usual.cache_mode),
        ("--chunk-size", job.chunk_size, usual.chunk_size),
        ("--max-batch-size", job.max_batch_size, None),
    ):
        if value != default:
            words += [name, str(value)]
    if job.autosplit_reserve != usual.autosplit_reserve:
        words += ["--autosplit-reserve", *map(str, job.autosplit_reserve)]
    return words


def no_attention_like(cached: Cached, version: str) -> UnsupportedError:
    """Return the error of a layer that a version does not have."""
    return UnsupportedError(f"{version} has no layers with a cache of kind {cached.kind}.", "Choose another engine.")
