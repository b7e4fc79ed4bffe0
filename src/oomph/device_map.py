"""Which modules transformers puts on the GPU and which wait in the machine's memory: `device_map="auto"` on one GPU.

Modules are taken in their order while they fit beside the largest layer, for which room is kept: it comes to the GPU
when it is its turn. Decoder layers stay whole, what holds them is split. All that follows the first layer that does
not fit waits. Buffers that no checkpoint holds are left out (a kilobyte of rotary frequencies).

Source: transformers 5.23, integrations/accelerate.py, infer_auto_device_map and get_balanced_memory; accelerate 1.15,
utils/modeling.py, get_max_layer_size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from oomph.agree import TOWERS
from oomph.blocks.base import Block, Stack
from oomph.blocks.cached import StateCache
from oomph.caches import layer_caches
from oomph.constants import measured
from oomph.dtypes import BITS
from oomph.errors import UnsupportedError, UsageError
from oomph.job import InferJob
from oomph.structure import decoder_stack
from oomph.tape.bound import BUFFER_DTYPE, nested
from oomph.tensor import BUFFERS, Tensor
from oomph.units import human, parse_size

if TYPE_CHECKING:
    from oomph.devices import Device
    from oomph.model import Model

NONE: Final = "none"  # nothing waits
KEPT_FREE = 10  # percent of a GPU that transformers leaves to other things unless max_memory is given
MOST_LETTERS = 4000  # of a list of modules that is read
RUN = re.compile(r"(?P<path>.*\.)(?P<first>\d{1,5})-(?P<last>\d{1,5})")


@dataclass(frozen=True)
class Node:
    """A module with the bytes of its tensors; a tensor that stands alone has `is_tensor`. `whole`: it is not split."""

    path: str
    n_bytes: int
    children: tuple[Node, ...] = ()
    whole: bool = False
    is_tensor: bool = False


def placed(model: Model, job: Any, device: Device | None = None) -> Any:
    """Return a job whose map is made: `offload` names the modules that wait, as "model.layers.24-31,lm_head".

    Raises UsageError where nothing says how much memory there is, or none of the model would be on the GPU.
    """
    if not isinstance(job, InferJob) or job.device_map == NONE:
        return job
    room = _room(job, device)
    waiting = spread(model, job.precision, room)
    if not waiting:
        return replace(job, device_map=NONE, max_memory="")
    made = replace(job, device_map=NONE, max_memory="", offload=_in_runs(waiting))
    if waiting_bytes(model, made) == sum(node.n_bytes for node in _modules(model, job.precision)):
        raise UsageError(
            f"{human(room)} hold nothing of {model.name or 'this model'} beside its largest layer: all of it would run"
            " on the CPU.",
            "Give more --max-memory, or take another GPU.",
        )
    return made


def _room(job: InferJob, device: Device | None) -> int:
    """Return the bytes that modules may take: what was said, or what the device has left beside CUDA's context."""
    free = None if device is None else device.capacity_bytes - measured("cuda_context", device).n_bytes
    if job.max_memory:
        said = parse_size(job.max_memory[:100])
        return said if free is None else min(said, free)
    if free is None:
        raise UsageError("A device map is made for a GPU of some size.", "Say --gpu, or --max-memory 20GiB.")
    return free * (100 - KEPT_FREE) // 100 if job.device_map == "auto" else free


def spread(model: Model, dtype: str, room: int) -> list[str]:
    """Return the paths of the modules that wait, where the GPU has `room` bytes for modules.

    A head that is the embedding goes where that goes, with what it has of its own.
    """
    queue = _modules(model, dtype)
    heads = [node for node in queue if model.tied and node.path in _heads(model)]
    largest, names = _largest(queue)
    used = 0
    waiting: list[str] = []
    while queue:
        node = queue.pop(0)
        names = [name for name in names if not _inside(name, node.path)]
        if not names:
            largest, names = _largest(queue)
        with_it = [head for head in heads if head in queue and any(_inside(each, node.path) for each in _tables(model))]
        together = node.n_bytes + sum(head.n_bytes for head in with_it)
        if waiting:
            waiting.append(node.path)
        elif used + together <= room - largest:
            used += together
            queue = [each for each in queue if each not in with_it]
        elif node.whole or not any(not child.is_tensor for child in node.children):
            waiting.append(node.path)
        else:
            queue = [*node.children, *queue]
            largest, names = _largest(queue)
    return waiting


def _largest(nodes: Sequence[Node]) -> tuple[int, list[str]]:
    """Return the bytes of the largest layer among modules, and the paths of all that are as large."""
    layers = [layer for node in nodes if not node.is_tensor for layer in _layers(node)]
    most = max((layer.n_bytes for layer in layers), default=0)
    return most, [layer.path for layer in layers if layer.n_bytes == most]


def _layers(node: Node) -> Iterator[Node]:
    """Yield what of a module comes to a device as one: layers that stay whole, and modules without others inside."""
    inner = [child for child in node.children if not child.is_tensor]
    if node.whole or not inner:
        yield node
        return
    for child in inner:
        yield from _layers(child)


def _modules(model: Model, dtype: str) -> list[Node]:
    """Return the model's own modules, those without tensors of their own left out: a head that is the embedding."""
    stack = decoder_stack(model)[0]
    return list(_node("", nested(model), dtype, stack).children)


def _node(path: str, block: Block, dtype: str, stack: str) -> Node:
    children: list[Node] = []
    for name, part in block.built_parts.items():
        where = f"{path}.{name}" if path else name
        if isinstance(part, Tensor):
            children.append(Node(where, _tensor_bytes(part, dtype), is_tensor=True))
        elif isinstance(part, Block):
            children.append(_node(where, part, dtype, stack))
    kept = tuple(child for child in children if child.n_bytes)
    whole = path.rpartition(".")[0] == stack
    # transformers splits a module into its tensors first, then its modules
    ordered = (*(child for child in kept if child.is_tensor), *(child for child in kept if not child.is_tensor))
    return Node(path, sum(child.n_bytes for child in kept), ordered, whole)


def _tensor_bytes(tensor: Tensor, dtype: str) -> int:
    own = BUFFER_DTYPE if tensor.role in BUFFERS and tensor.role == "buffer" else dtype
    return tensor.numel * BITS[tensor.dtype or own] // 8


def _inside(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")


def _in_runs(paths: Iterable[str]) -> str:
    """Return paths with commas between them, numbers that follow each other as a run.

    >>> _in_runs(["model.layers.2", "model.layers.3", "model.layers.4", "lm_head"])
    'model.layers.2-4,lm_head'
    """
    runs: list[list[str]] = []
    for path in paths:
        before, _, last = path.rpartition(".")
        if runs and last.isdecimal() and runs[-1][0] == before and int(last) == int(runs[-1][2]) + 1:
            runs[-1][2] = last
        else:
            runs.append([before, last, last])
    return ",".join(
        f"{before}." * bool(before) + (first if first == last else f"{first}-{last}") for before, first, last in runs
    )


def waiting_paths(model: Model, offload: str) -> frozenset[str]:
    """Return the paths of the modules that a list names; raises UsageError for one that the model has not.

    A run of layers is written with a hyphen: "model.layers.24-31".
    """
    if len(offload) > MOST_LETTERS:
        raise UsageError("The list of modules that wait is too long.", "Write layers as runs: model.layers.24-31.")
    known = set(_paths("", nested(model)))
    found: set[str] = set()
    for word in filter(None, (each.strip() for each in offload.split(","))):
        run = RUN.fullmatch(word)
        paths = (
            [word] if run is None else [f"{run['path']}{at}" for at in range(int(run["first"]), int(run["last"]) + 1)]
        )
        missing = [path for path in paths if path not in known] or ([word] if not paths else [])
        if missing:
            raise UsageError(
                f"This model has no module {missing[0][:80]!r}.",
                f"Its layers are {decoder_stack(model)[0]}.0 and so on: --offload {decoder_stack(model)[0]}.0-3",
            )
        found.update(paths)
    if model.tied:
        found |= _tied(model, found)
    if not found:
        raise UsageError("offload names no module.", "Say which wait, as model.layers.24-31, or leave it out.")
    return frozenset(found)


def waiting_bytes(model: Model, job: InferJob) -> int:
    """Return the bytes of what waits in the machine's memory."""
    paths = waiting_paths(model, job.offload)
    queue, found = _modules(model, job.precision), 0
    while queue:
        node = queue.pop()
        if is_away(paths, node.path):
            found += node.n_bytes
        else:
            queue += node.children
    return found


def _tied(model: Model, paths: set[str]) -> set[str]:
    """Return the embedding where the head is the same tensor and waits."""
    return _tables(model) if _heads(model) & paths else set()


def _heads(model: Model) -> set[str]:
    """Return the paths of heads without a weight of their own."""
    return {name for name, part in nested(model).built_parts.items() if _is_empty(part)}


def _tables(model: Model) -> set[str]:
    """Return the paths of embeddings."""
    return {weight.name.rpartition(".")[0] for weight in model.weights if weight.kind == "embedding"}


def _is_empty(part: Any) -> bool:
    """Tell whether a part is a module without a weight of its own."""
    return isinstance(part, Block) and "weight" in part.built_parts and part.built_parts["weight"] is None


def _paths(path: str, block: Block) -> Iterator[str]:
    for name, part in block.built_parts.items():
        if isinstance(part, Block):
            where = f"{path}.{name}" if path else name
            yield where
            if not isinstance(part, Stack) or any(isinstance(each, Block) for each in part.layers):
                yield from _paths(where, part)


def is_away(paths: frozenset[str], path: str) -> bool:
    """Tell whether a tensor or module lies in one of the modules.

    >>> is_away(frozenset({"model.layers.3"}), "model.layers.3.mlp"), is_away(frozenset({"model.layers.3"}), "lm_head")
    (True, False)
    """
    while path:
        if path in paths:
            return True
        path = path.rpartition(".")[0]
    return False


# Of which something else is there at another moment, by a few bytes; and code that comes with a model.
UNPLAYED = frozenset({"baichuan", "chatglm", "ernie4_5_moe", "internlm2", "llama4_text", "mimo", "qwen"})


def refuse(model: Model, job: InferJob) -> None:
    """Refuse what is not played with modules that wait."""
    if job.quantization != NONE:
        raise UnsupportedError("Quantised weights that wait in memory are not modelled.", "Leave --quantization out.")
    states = any(isinstance(one, StateCache) for each in layer_caches(model) for one in each.cached)
    towers = any(weight.kind in TOWERS for weight in model.weights)
    if model.objective != "causal-lm" or states or towers or model.decoder_type in UNPLAYED:
        raise UnsupportedError(
            f"oomph does not play modules of {model.model_type} that wait in the machine's memory.",
            "It plays decoders that attend in every layer. Leave out --offload and --device-map.",
        )
