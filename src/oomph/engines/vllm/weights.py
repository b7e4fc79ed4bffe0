"""What loading a model leaves allocated on one device: "Model loading took".

Every tensor that vLLM's modules make, in the order they make them, played on torch's caching allocator, because the
line counts blocks: a matrix of 231 MiB takes a block of 232. Maps of one input lie side by side in one tensor, all
experts of a layer in two. Formats are those of the checkpoint, cut for the device, and changed where vLLM holds them
otherwise (held.py). Source: model_executor/model_loader/ and the models' classes of vLLM 0.19.0; utils/mem_utils.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from oomph import dtypes
from oomph.allocator import CachingAllocator
from oomph.allocator.config import Config
from oomph.blocks.base import walk
from oomph.blocks.cached import TokenCache
from oomph.caches import layer_caches
from oomph.engines.tensor_parallel import (
    TOWERS,
    VOCAB_PADDING,
    WORDS,
    experts_of,
    fused,
    module_of,
    on_rank,
    vocabulary,
)
from oomph.engines.vllm.gguf import Rows, layer_rows, side_by_side
from oomph.engines.vllm.held import Kernel, held
from oomph.engines.vllm.lora import HEAD_PADDING, Slots, slots, with_brought, word_slots
from oomph.formats.gguf import Gguf
from oomph.structure import decoder_stack
from oomph.tensor import Weight

if TYPE_CHECKING:
    from oomph.engines.rope import Table
    from oomph.formats.base import Format, Stored
    from oomph.model import Model

EXPERTS = ("moe_experts",)
ADAPTERS = "adapters"
WIDE = dtypes.BITS["fp32"] // 8
TORCH = Config(by_address=True)  # torch up to 2.12, under which the versions known here run


@dataclass(frozen=True)
class Plan:
    """How a model is spread: stage `stage` of `pp`, one of `tp` devices of it; `mtp` with its prediction layers.

    `dp` copies of all else share one set of experts, cut further, or with `ep` whole ones on each device.
    `mxfp4` is the kernel that MXFP4 experts are laid out for; `nested` keeps bitsandbytes' scales of scales; `lora` are
    slots for adapters; `fixed` are bytes that loading leaves beside the model. `settings` are of torch's allocator.
    `absorbs`: maps of latent attention lie there multiplied too. `few_marlin`: see `held`.
    `padded`: maps of a GGUF file side by side are as wide as the widest.
    So many `host_bytes` of each device's layers, at least, lie with the host where there are as many.
    """

    tp: int = 1
    dp: int = 1
    ep: bool = False
    pp: int = 1
    stage: int = 0
    mtp: bool = False
    towers: bool = True
    mxfp4: Kernel = "marlin"
    nested: bool = False
    absorbs: bool = False
    few_marlin: bool = False
    lora: Slots | None = None
    fixed: tuple[int, ...] = ()
    settings: Config = TORCH
    host_bytes: int = 0
    padded: bool = True


@dataclass(frozen=True)
class Held:
    """One tensor of a device, once for all layers that have it: where it belongs and its bytes."""

    name: str
    kind: str
    dtype: str
    n_bytes: int  # of one
    layers: tuple[int, ...] = ()  # decoder layers; () for what stands alone

    @property
    def total_bytes(self) -> int:
        """Bytes of all layers."""
        return self.n_bytes * (len(self.layers) or 1)


@dataclass(frozen=True)
class Loaded:
    """The tensors of a device, and what torch counts as allocated for them: of all, and before adapters had slots."""

    tensors: tuple[Held, ...]
    tables: tuple[int, ...]  # bytes of the cosines and sines
    allocated_bytes: int
    before_adapters_bytes: int

    @property
    def tensor_bytes(self) -> int:
        """Bytes of the tensors themselves, tables included."""
        return sum(each.total_bytes for each in self.tensors) + sum(self.tables)


def loaded(model: Model, fmt: Format, plan: Plan, tables: tuple[Table, ...], drafts: tuple[Held, ...] = ()) -> Loaded:
    """Return what one device holds after loading; `drafts` are tensors of what guesses ahead, loaded last."""
    before_layers, layers, after_layers = _sections(model, fmt, plan)
    sections = (before_layers, layers, (*after_layers, *drafts))
    width = dtypes.BITS[fmt.rest] // 8
    sizes = tuple(table.rows * table.width * (WIDE if table.fp32 else width) for table in tables)
    before, after = _played(sections, sizes, plan)
    return Loaded(tuple(each for section in sections for each in section), sizes, after, before)


def one_by_one(model: Model, fmt: Format, plan: Plan) -> tuple[Held, ...]:
    """Return every tensor of a model on its own, in the order they are made."""
    return tuple(
        replace(each, layers=())
        for section in _sections(model, fmt, plan)
        for each in section
        for _ in each.layers or (0,)
    )


Section = tuple[Held, ...]
Sections = tuple[Section, Section, Section]


def stage_layers(layers: int, stages: int) -> list[range]:
    """Return the layers of each stage: what does not divide goes to the middle ones first, never to the last.

    >>> [len(each) for each in stage_layers(61, 4)]
    [15, 15, 16, 15]
    """
    sizes = [layers // stages] * stages
    for place in range(2, layers % stages + 2):
        sizes[-place] += 1
    starts = [sum(sizes[:at]) for at in range(stages)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]


def _sections(model: Model, fmt: Format, plan: Plan) -> Sections:
    """Return the tensors before the layers, of the layers and after them that one stage holds."""
    path, _ = decoder_stack(model)
    mine = stage_layers(model.num_layers, plan.pp)[plan.stage]
    first, last = plan.stage == 0, plan.stage == plan.pp - 1
    before: list[Held] = []
    after: list[Held] = []
    layers = _on_the_device(list(_layers(model, fmt, plan, mine)), plan.host_bytes)
    seen = False
    for name, part in model.parts.items():
        if name == path:
            seen = True
            continue
        rows = [row for row in walk(part, name) if _wanted(row, plan)]
        is_head = seen or any(row.kind in ("lm_head", "mtp") for row in rows)
        tied_head = model.tied and any(row.kind == "embedding" for row in rows)
        if (first and not is_head) or (last and (is_head or tied_head)):
            (after if is_head else before).extend(tensors(rows, model, fmt, plan, None))
    return tuple(before), tuple(layers), tuple(after)


def _layers(model: Model, fmt: Format, plan: Plan, mine: range) -> Iterator[Held]:
    path, stack = decoder_stack(model)
    caches = {layer: kept for found in layer_caches(model) for layer in found.layers for kept in found.cached}
    for layer, places in stack.groups():
        inside = tuple(place for place in places if place in mine)
        if inside:
            kept = caches.get(inside[0])
            rows = walk(layer, f"{path}.*", places=(inside,))
            yield from tensors(rows, model, fmt, plan, kept if isinstance(kept, TokenCache) else None, inside)


def _on_the_device(layers: list[Held], host_bytes: int) -> list[Held]:
    """Return what stays of layers: from the first on, tensor by tensor, they go to the host until it holds as much.

    Source: model_executor/offloader/uva.py of vLLM 0.33.0, models/utils.py (maybe_offload_to_cpu) of 0.8.5.
    """
    gone: dict[int, set[int]] = {}
    for place in sorted({layer for each in layers for layer in each.layers}):
        for index, each in enumerate(layers):
            if host_bytes > 0 and place in each.layers and each.kind != ADAPTERS:
                gone.setdefault(index, set()).add(place)
                host_bytes -= each.n_bytes
    left = [
        replace(each, layers=tuple(layer for layer in each.layers if layer not in gone.get(index, ())))
        for index, each in enumerate(layers)
    ]
    return [each for each in left if each.layers]


def _wanted(row: Weight, plan: Plan) -> bool:
    """Tell whether a tensor outside the layers is loaded: prediction layers only where they guess ahead."""
    if row.kind == "mtp":
        return plan.mtp and row.role not in ("embedding", "head")  # those are the model's own
    return plan.towers or row.kind not in TOWERS


def tensors(
    rows: Iterable[Weight], model: Model, fmt: Format, plan: Plan, kept: TokenCache | None, layers: tuple[int, ...] = ()
) -> Iterator[Held]:
    """Yield the tensors that a device holds for weights, those side by side as one; `layers` are where rows stand."""
    if isinstance(fmt, Gguf):
        yield from _of_file(rows, model, fmt, plan, kept)
        return
    found: dict[tuple[str, tuple[int, ...]], Held] = {}
    for row in rows:
        mine = _on_device(row, model, plan, kept)
        for inside, each in _stored(mine, fmt, model, layers, plan):
            key = (fused(each.name), inside)
            size = each.n_bytes // (len(inside) or 1)
            before = found.get(key)
            found[key] = Held(key[0], row.kind, each.dtype, size + (before.n_bytes if before else 0), inside)
        if plan.lora is not None:
            for name, elements in (*slots(mine, plan.lora), *word_slots(row, plan.lora, model.tied)):
                size = elements * dtypes.BITS[fmt.rest] // 8
                found[name, layers] = Held(name, ADAPTERS, fmt.rest, size, layers)
    yield from found.values()


def _of_file(rows: Iterable[Weight], model: Model, fmt: Gguf, plan: Plan, kept: TokenCache | None) -> Iterator[Held]:
    """Yield the same of a GGUF file, layer by layer, with the numbers of their types beside what is in blocks."""
    parts: dict[tuple[str, int], list[Rows]] = {}
    kinds: dict[str, str] = {}
    for row in rows:
        name = fused(row.name)
        kinds[name] = row.kind
        for layer, part in layer_rows(row, _on_device(row, model, plan, kept), fmt, model):
            parts.setdefault((name, layer), []).append(part)
    for (name, layer), each in parts.items():
        size, kind = side_by_side(each, plan.padded)
        layers = (layer,) if layer >= 0 else ()
        yield Held(name, kinds[name], kind, size, layers)
        if kind != fmt.rest:
            yield Held(f"{name}_type", kinds[name], "uint8", len(each), layers)


def _on_device(row: Weight, model: Model, plan: Plan, kept: TokenCache | None) -> Weight:
    if row.role in ("embedding", "head") and row.kind in ("embedding", "lm_head", "mtp"):
        is_vocabulary = row.role == "head" or module_of(row)[0] in WORDS
        wide = plan.lora is not None and plan.lora.brought and row.kind == "lm_head"
        padding = HEAD_PADDING if wide else VOCAB_PADDING
        return vocabulary(with_brought(row, plan.lora), plan.tp, padding) if is_vocabulary else row
    if row.kind in EXPERTS or row.role == "expert":
        ways = plan.tp * plan.dp
        return experts_of(row, ways) if plan.ep and ways > 1 else on_rank(row, ways, None, model.model_type)
    return on_rank(row, plan.tp, kept, model.model_type)


def _stored(
    row: Weight, fmt: Format, model: Model, layers: tuple[int, ...], plan: Plan
) -> Iterator[tuple[tuple[int, ...], Stored]]:
    """Yield what is held of a weight, with the layers that hold it: one by one where a format tells them apart."""
    as_held = partial(
        held, fmt=fmt, model=model, kernel=plan.mxfp4, nested=plan.nested, absorbs=plan.absorbs,
        few_marlin=plan.few_marlin,
    )  # fmt: skip
    kept = as_held(row)
    if not layers or all(each.copies == row.copies for each in kept):
        yield from ((layers, each) for each in kept)
        return
    for layer in layers:
        one = replace(row, places=((layer,), *row.places[1:]))
        yield from (((layer,), each) for each in as_held(one))


def _played(sections: Sections, tables: Sequence[int], plan: Plan) -> tuple[int, int]:
    """Return what torch counts as allocated once all tensors stand, the tables after the first layer's, and once
    adapters have their slots too."""
    allocator = CachingAllocator(plan.settings)
    slots_of = [each for section in sections for each in section if each.kind == ADAPTERS]
    before, layers, after = ([each for each in section if each.kind != ADAPTERS] for section in sections)
    for each in before:
        _take(allocator, each)
    places = sorted({layer for each in layers for layer in each.layers})
    for place in places:
        for each in layers:
            if place in each.layers:
                _take(allocator, each)
        if place == places[0]:
            for size in (*tables, *plan.fixed):
                allocator.malloc(size)
    for each in after:
        _take(allocator, each)
    loaded_bytes = allocator.allocated
    for each in slots_of:
        for _ in each.layers or (0,):
            _take(allocator, each)
    return loaded_bytes, allocator.allocated


def _take(allocator: CachingAllocator, each: Held) -> None:
    if each.n_bytes:
        allocator.malloc(each.n_bytes)
