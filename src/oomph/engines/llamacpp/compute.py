"""The compute buffers of a server: its model's graph, played for the largest batch in the context it is started with.

A play takes from some to some hundred milliseconds, so that contexts and slots between powers of two are read off a
straight line between their neighbours: buffers are the most of several straight lines, which is below that line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from oomph.engines.llamacpp.builds import NEWEST
from oomph.engines.llamacpp.file import FileTensor
from oomph.engines.llamacpp.graph import compute_buffers
from oomph.engines.llamacpp.graph_setup import CPU, Build, GraphSetup, Hparams, Stored
from oomph.engines.llamacpp.kv import CELLS, CacheRules, Window, window
from oomph.engines.llamacpp.placing import Loaded
from oomph.engines.llamacpp.sizes import Sizes
from oomph.errors import UnsupportedError

Amount = Any  # an int or a numpy array of them

# What building a graph ends in where a file lacks tensors, or their shapes do not go together: files come from outside.
BROKEN = (AssertionError, IndexError, KeyError, ValueError, ZeroDivisionError)
MOST_SLOTS = 256  # LLAMA_MAX_SEQ


@dataclass(frozen=True)
class Question:
    """All that decides the compute buffers in a context: a model loaded on `gpus` GPUs.

    `layers` are the devices of the layers. `all_outputs`: older builds make room for the logits of every token of a
    batch; newer servers for `outputs` of each slot, up to a whole batch of `n_batch`. `measured`: as --fit reckons.
    """

    loaded: Loaded
    sizes: Sizes
    hparams: Hparams
    rules: CacheRules
    gpus: int
    layers: tuple[int, ...]
    output: int
    kv_offload: bool = True
    op_offload: bool = True
    pipeline: bool = False
    all_outputs: bool = False
    outputs: int = 1
    adapters: tuple[tuple[FileTensor, int], ...] = ()
    n_batch: int = 2048
    measured: bool = False
    build: Build = NEWEST


@lru_cache(maxsize=512)
def buffers(asked: Question, at: Window) -> Mapping[int, int]:
    """Return the bytes of the compute buffer of each GPU, and of the host (-1), in a context of whole numbers.

    Raises UnsupportedError for an architecture whose graph is not known.
    """
    return by_device(asked, lambda: compute_buffers(setup(asked, at)))


def by_device(asked: Question, played: Callable[[], Mapping[str, int]]) -> Mapping[int, int]:
    """Return played buffers by GPU, -1 for the host; UnsupportedError where the file's tensors do not fit together."""
    try:
        found = played()
    except BROKEN:
        raise UnsupportedError(
            f"The tensors of this file are not those of {asked.sizes.arch[:40]}, or its numbers are not theirs.",
            "Download it again; the engine would not load it.",
        ) from None
    return {(-1 if name == CPU else int(name[4:])): size for name, size in found.items()}


def setup(asked: Question, at: Window) -> GraphSetup:
    """Return the question as the graph builders take it."""
    rules = asked.rules
    devices = tuple(f"CUDA{gpu}" for gpu in range(asked.gpus))
    layers = tuple(_name(device) for device in asked.layers[: len(asked.sizes.kept)])
    return GraphSetup(
        arch=asked.sizes.arch,
        tensors=tensors(asked.loaded, asked.adapters),
        adapted=bool(asked.adapters),
        hparams=asked.hparams,
        n_ctx=at.n_ctx,
        cells=at.cells,
        swa_cells=rules.swa_cells(asked.sizes, at) if asked.sizes.windowed else 0,
        n_ubatch=min(rules.n_ubatch, at.n_ctx),
        n_seq_max=at.slots,
        n_outputs_max=at.n_ctx if asked.all_outputs else min(asked.n_batch, at.slots * asked.outputs),
        kv_unified=rules.unified,
        flash_attn=rules.flash,
        type_k=rules.type_k,
        type_v=rules.type_v,
        devices=(*devices, CPU),
        layer_devices=layers,
        kv_devices=layers if asked.kv_offload else (CPU,) * len(layers),
        full_offload=min(asked.output, *asked.layers) >= 0,
        offload_kqv=asked.kv_offload,
        op_offload=asked.op_offload,
        pipeline=asked.pipeline,
        measured=asked.measured,
        build=asked.build,
    )


def _name(device: int) -> str:
    return CPU if device < 0 else f"CUDA{device}"


@lru_cache(maxsize=64)
def tensors(loaded: Loaded, adapters: tuple[tuple[FileTensor, int], ...] = ()) -> Mapping[str, Stored]:
    """Return where each tensor was loaded to, by name; a tied embedding's second copy is the output matrix."""
    found: dict[str, Stored] = {}
    for tensor, device in (*loaded.tensors, *adapters):
        name = "output.weight" if tensor.name in found and tensor.name == "token_embd.weight" else tensor.name
        if name not in found or device >= 0:
            found[name] = Stored(tensor.shape[::-1], tensor.type, _name(device))
    return found


def between(asked: Question, device: int, n_ctx: Amount, slots: Amount) -> Amount:
    """Return the bytes of a device's compute buffer; contexts and slots may be arrays."""
    played = lru_cache(maxsize=None)(partial(_played, asked, device))  # few are played, for thousands of pairs
    if isinstance(n_ctx, int) and isinstance(slots, int):
        return _between(played, n_ctx, slots)
    import numpy as np  # the amounts are arrays of it, so that it is here

    wide, many = np.broadcast_arrays(n_ctx, slots)
    pairs, places = np.unique(np.stack([wide.ravel(), many.ravel()]), axis=1, return_inverse=True)
    found = np.array([_between(played, int(a), int(b)) for a, b in pairs.T], dtype=np.int64)
    return found[places.ravel()].reshape(wide.shape)


def _between(played: Callable[[int, int], int], n_ctx: int, slots: int) -> int:
    slots = min(slots, MOST_SLOTS)
    low, high = _neighbours(slots, 1)
    first = _along(played, n_ctx, low)
    return first if low == high else _line(slots, low, high, first, _along(played, n_ctx, high))


def _along(played: Callable[[int, int], int], n_ctx: int, slots: int) -> int:
    low, high = _neighbours(max(n_ctx, CELLS), CELLS)
    first = played(low, slots)
    return first if low == high else _line(n_ctx, low, high, first, played(high, slots))


def _neighbours(number: int, least: int) -> tuple[int, int]:
    """Return the powers of two around a number; itself twice where it is one."""
    high = max(1 << (number - 1).bit_length(), least)
    return (high, high) if number == high or high == least else (high // 2, high)


def _line(at: int, low: int, high: int, first: int, second: int) -> int:
    return first + -(-(second - first) * (at - low) // (high - low))


def _played(asked: Question, device: int, n_ctx: int, slots: int) -> int:
    return buffers(asked, window(n_ctx, slots, asked.rules.unified))[device]
