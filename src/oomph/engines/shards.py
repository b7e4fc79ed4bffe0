"""The part of a model's weights that one device holds, and what a step's tensors take there at least and at most.

How parameters are cut is the same for all (tensor_parallel.py); what differs among engines is who shares what: heads of
attention among fewer devices than the rest, experts whole or cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from oomph import formats
from oomph.allocator import CachingAllocator, Config
from oomph.blocks.cached import TokenCache
from oomph.caches import layer_caches
from oomph.engines.checks import DTYPES
from oomph.engines.memo import remembered
from oomph.engines.tensor_parallel import WORDS, fused, module_of, on_rank, vocabulary
from oomph.errors import UnsupportedError
from oomph.formats.base import Format
from oomph.formats.registry import FORMATS
from oomph.model import Model
from oomph.runtime_memory import segment_bytes
from oomph.structure import decoder_stack
from oomph.tensor import Weight

if TYPE_CHECKING:
    from oomph.answer import Subject

ONLINE = {"fp8": "fp8-tensor"}  # what a method makes of a checkpoint in full precision
# Formats that are another engine's own, by the file that describes them.
ELSEWHERE = {"gguf": "llama.cpp", "mlx": "MLX", "exl2": "ExLlamaV2", "exl3": "ExLlamaV3"}
ABSORBED = "kv_b_proj"  # cut into two matrices of its own for decoding, and kept beside them
HIDDEN_STATES = 4  # of a step: residual, normed, what is added to it, and the next
KEPT = 64
TORCH = Config(by_address=True)  # torch up to 2.12, under which the versions known here run


@dataclass(frozen=True)
class Spread:
    """How a model is spread: `attention` devices share heads, `tensor` all else, in `experts` groups the experts.

    `layers` are those of a stage of a pipeline, None all; `first` and `last` say which end of the model is with them.
    """

    attention: int = 1
    tensor: int = 1
    experts: int = 1
    layers: range | None = None
    first: bool = True
    last: bool = True


@dataclass(frozen=True)
class OnDevice:
    """Bytes of one device: of the model's tensors, of its prediction layers', and what torch reserves for the model.

    `reserved_bytes` is what the device has less: whole blocks of torch's allocator, with the tables of an engine among
    them. `rounding_bytes` is the most that blocks are larger than what is in them, whatever the order.
    """

    n_bytes: int
    draft_bytes: int
    reserved_bytes: int
    rounding_bytes: int


def format_of(found: Subject, name: str | None, dtype: str = "auto", method: str | None = None) -> Format:
    """Return the format of the weights: one by name, else the checkpoint's own, else what a method makes of it.

    `dtype` and `method` are an engine's words. Raises UnsupportedError for a method that is not known.
    """
    if name is not None:
        fmt = formats.get(name)
        whose = ELSEWHERE.get(FORMATS[fmt.name])
        if whose:
            raise UnsupportedError(
                f"{fmt.name} is how {whose} stores weights.", f"Ask for awq or fp8, or for {whose}: --engine."
            )
        return fmt
    asked = formats.asked_for(found.source.config or {})
    rest = DTYPES[dtype] or (found.model.dtype if found.model.dtype in ("bf16", "fp16") else "bf16")
    if asked is not None:
        own = str(asked.get("quant_method", ""))
        if method is not None and not method.startswith(own.partition("_")[0]):
            raise UnsupportedError(f"Quantisation by {method[:40]} of a checkpoint in {own[:40]} is not modelled.")
        return remembered(found.model, ("asked for", rest), lambda: formats.from_config(asked, rest))
    if method is not None and method not in ONLINE:
        raise UnsupportedError(
            f"Quantisation by {method[:40]} of a checkpoint in full precision is not modelled.",
            f"Known: {', '.join(ONLINE)}; or name the quantised checkpoint.",
        )
    return formats.get(rest if method is None else ONLINE[method])


@lru_cache(maxsize=KEPT)
def on_device(model: Model, fmt: Format, spread: Spread, tables: tuple[int, ...] = ()) -> OnDevice:
    """Return what one device holds of a model in a format, `tables` of so many bytes made with its first layer.

    >>> from oomph import load
    >>> on_device(load("llama-3-8b"), formats.get("bf16"), Spread(tensor=2, attention=2)).n_bytes
    8030527488
    """
    total = drafts = 0
    sizes: dict[int, int] = {}
    made: dict[tuple[int, str], int] = {}  # by layer, -1 before and the number of layers after them
    for row in _rows(model, spread):
        for each in fmt.store(row, model):
            copied = 2 if module_of(row)[0] == ABSORBED else 1
            if row.kind == "mtp":
                drafts += each.n_bytes * copied
                continue
            total += each.n_bytes * copied
            together = len(row.places[-1]) if _is_expert(row) else 1  # all experts of a layer are one tensor
            size = each.bytes_each * together
            sizes[size] = sizes.get(size, 0) + max(1, each.copies // together) * copied
            places = row.places[0] if row.places else (_end(row, model),)
            for place in places:
                for copy in range(copied):
                    key = place, f"{fused(each.name)}{copy}"
                    made[key] = made.get(key, 0) + each.n_bytes // len(places)
    rounding = sum(segment_bytes(size, copies) - size * copies for size, copies in sizes.items())
    reserved = _reserved(made, tables)
    return OnDevice(total + sum(tables), drafts, reserved, max(0, total + sum(tables) + rounding - reserved))


def _end(row: Weight, model: Model) -> int:
    return model.num_layers if row.kind in ("lm_head", "norm") else -1


def _reserved(made: Mapping[tuple[int, str], int], tables: Sequence[int]) -> int:
    """Return what torch's caching allocator has taken of the device once all tensors stand, in their order."""
    allocator = CachingAllocator(TORCH)
    waiting = list(tables)
    first = min((place for place, _ in made if place >= 0), default=-1)
    for (place, _), size in sorted(made.items(), key=lambda each: each[0][0]):
        if place > first:
            while waiting:
                allocator.malloc(waiting.pop(0))
        if size:
            allocator.malloc(size)
    return allocator.reserved


@lru_cache(maxsize=KEPT)
def step_bytes(model: Model, spread: Spread, tokens: int, scores: int, width: int = 2) -> tuple[int, int]:
    """Return what the tensors of a step of `tokens` tokens take, of which `scores` are scored, at least and at most.

    At least the widest map's input and output are there at a time, at most the outputs of all maps of a layer; and the
    scores in fp32, as they come and once more as a copy. Workspaces of kernels are not in it.

    Llama 3 8B, 8192 tokens: 4096 x 2 and 14336 numbers of each; 16384 and 43008.
    >>> from oomph import load
    >>> least, most = step_bytes(load("llama-3-8b"), Spread(), 8192, 1)
    >>> round(least / 2**30, 2), round(most / 2**30, 2)
    (0.34, 0.91)
    """
    widest = 0
    layers: dict[int, int] = {}
    path = decoder_stack(model)[0]
    for row in _rows(model, spread):
        if row.role not in ("linear", "expert", "conv1d") or not row.places or not row.name.startswith(path):
            continue
        out = row.shape[1] if row.role == "conv1d" else row.shape[0]
        made = out * row.used
        widest = max(widest, made)
        first = row.places[0][0]
        layers[first] = layers.get(first, 0) + made
    vocabulary_rows = max(
        (row.shape[0] for row in _rows(model, spread) if row.role == "head"), default=model.vocab_size
    )
    scored = scores * vocabulary_rows * 4
    hidden = tokens * model.hidden_size * width * HIDDEN_STATES
    least = max(tokens * (model.hidden_size * 2 + widest) * width, scored)
    return least, max(hidden + tokens * max(layers.values(), default=0) * width, 0) + 2 * scored


def _is_expert(row: Weight) -> bool:
    return ".experts." in row.name


def _rows(model: Model, spread: Spread) -> Iterator[Weight]:
    """Yield every weight as one device holds it."""
    stack = decoder_stack(model)[0]
    mine = spread.layers if spread.layers is not None else range(model.num_layers)
    kept = {layer: each for found in layer_caches(model) for layer in found.layers for each in found.cached}
    of_tokens = next((each for each in kept.values() if isinstance(each, TokenCache)), None)
    for row in model.weights:
        cache: Any = of_tokens
        if row.name.startswith(f"{stack}.*") and row.places:
            inside = tuple(place for place in row.places[0] if place in mine)
            if not inside:
                continue
            cache = kept.get(inside[0])
            row = replace(row, places=(inside, *row.places[1:]))
        elif not _at_an_end(row, model, spread):
            continue
        if row.kind == "mtp" and row.role in ("embedding", "head"):
            continue  # the model's own
        yield _cut(row, model, spread, cache if isinstance(cache, TokenCache) else None)


def _at_an_end(row: Weight, model: Model, spread: Spread) -> bool:
    """Tell whether a weight beside the layers is on a stage: what follows them on the last, all else on the first."""
    if row.kind in ("lm_head", "mtp", "norm"):
        return spread.last
    return spread.first or (row.kind == "embedding" and spread.last and model.tied)


def _cut(row: Weight, model: Model, spread: Spread, kept: TokenCache | None) -> Weight:
    """Return the part of a weight on one device."""
    if row.role == "head" or (row.role == "embedding" and module_of(row)[0] in WORDS):
        whole = row.role == "embedding" and spread.attention != spread.tensor
        return vocabulary(row, 1 if whole else spread.tensor)
    if _is_expert(row) and spread.experts > 1:
        experts = len(row.places[-1])
        if experts % spread.experts:
            raise UnsupportedError(f"{experts} experts among {spread.experts} groups are not modelled.")
        row = replace(row, places=(*row.places[:-1], row.places[-1][: experts // spread.experts]))
        return on_rank(row, spread.tensor // spread.experts, kept, model.model_type)
    attention = row.kind in ("attention", "linear_attention") or ".self_attn." in row.name
    return on_rank(row, spread.attention if attention else spread.tensor, kept, model.model_type)
