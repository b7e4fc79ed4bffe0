"""llama.cpp's caches: keys and values in cells, of all tokens and of windows apart, and states of recurrent layers.

Sizes may be numpy arrays. Source: src/llama-context.cpp, src/llama-kv-cache.cpp, src/llama-kv-cache-iswa.cpp and
src/llama-memory-recurrent.cpp of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from oomph.engines.llamacpp.file import ALIGNMENT
from oomph.engines.llamacpp.placing import GPU_ALIGNMENT, GPU_ROW, aligned
from oomph.engines.llamacpp.sizes import Kept, Sizes
from oomph.formats.gguf_types import GgmlType

Amount = Any  # an int or a numpy array of them

CELLS = 256  # n_ctx and the cells of a window's cache are padded to a multiple of so many
STATE = 4  # bytes of an element of a recurrent state: F32


class Window(NamedTuple):
    """The context of a server: `n_ctx` tokens of all slots, `cells` of one stream, `streams` beside each other."""

    n_ctx: Amount
    cells: Amount
    streams: Amount
    slots: Amount


def window(asked: Amount, slots: Amount, unified: bool) -> Window:
    """Return the context for so many tokens: padded, and divided among the slots unless they share it.

    >>> window(10000, 4, True), window(10000, 4, False).cells
    (Window(n_ctx=10240, cells=10240, streams=1, slots=4), 2560)
    """
    n_ctx = padded(asked)
    if unified:
        return Window(n_ctx, n_ctx, 1 + 0 * n_ctx, slots)
    cells = padded(n_ctx // slots)
    return Window(cells * slots, cells, slots, slots)


def padded(tokens: Amount) -> Amount:
    """Return tokens rounded up to whole lots of cells."""
    return -(-tokens // CELLS) * CELLS


@dataclass(frozen=True)
class CacheRules:
    """How the keys are kept: types, whether values are transposed (without flash attention), whether windows are."""

    type_k: GgmlType
    type_v: GgmlType
    flash: bool
    unified: bool
    swa_full: bool
    n_ubatch: int

    def swa_cells(self, sizes: Sizes, at: Window) -> Amount:
        """Return the cells of a stream of the cache of windows."""
        if self.swa_full:
            return at.cells
        room = sizes.n_swa * (at.slots if self.unified else 1) + self.n_ubatch
        return padded(_smaller(at.cells, room))

    def row_bytes(self, sizes: Sizes, layer: int) -> tuple[int, int]:
        """Return what one cell of a layer takes, keys and values."""
        kept = sizes.kept[layer]
        values = kept.v if self.flash else sizes.widest_v
        k = self.type_k.row_bytes(kept.k)
        return k, 0 if sizes.latent else self.type_v.row_bytes(values)


def _smaller(one: Amount, other: Amount) -> Amount:
    return one - (one - other) * (one > other)


@dataclass(frozen=True)
class LayerBytes:
    """What one layer takes of the caches."""

    layer: int
    swa: bool
    k: Amount
    v: Amount


def kv_layers(sizes: Sizes, rules: CacheRules, at: Window) -> Iterator[LayerBytes]:
    """Yield what each layer with keys takes."""
    yield from kv_of(sizes, rules, at, (layer for layer, kept in enumerate(sizes.kept) if kept.k))


def kv_of(sizes: Sizes, rules: CacheRules, at: Window, layers: Iterable[int]) -> Iterator[LayerBytes]:
    """Yield what some layers take."""
    swa_cells = rules.swa_cells(sizes, at) if sizes.windowed else 0
    for layer in layers:
        kept = sizes.kept[layer]
        cells = (swa_cells if kept.swa else at.cells) * at.streams
        k, v = rules.row_bytes(sizes, layer)
        yield LayerBytes(layer, kept.swa, cells * k, cells * v)


def kv_on_gpu(sizes: Sizes, rules: CacheRules, each: LayerBytes) -> Amount:
    """Return what a layer's keys and values take in a GPU's buffer; both are tensors of their own."""
    kept = sizes.kept[each.layer]
    width = kept.v if rules.flash else sizes.widest_v
    return _gpu(each.k, rules.type_k, kept.k) + (0 if sizes.latent else _gpu(each.v, rules.type_v, width))


def _gpu(n_bytes: Amount, kind: GgmlType, width: int) -> Amount:
    short = -width % GPU_ROW if kind.block > 1 else 0
    return -(-(n_bytes + (kind.row_bytes(short) if short else 0)) // GPU_ALIGNMENT) * GPU_ALIGNMENT


def states_of(alike: Mapping[Kept, int], slots: Amount, gpu: bool = False) -> Amount:
    """Return the bytes of recurrent layers, their convolutions' and their own states, of all slots."""
    to = GPU_ALIGNMENT if gpu else ALIGNMENT
    return sum(
        layers * (aligned(slots * kept.r * STATE, to) + aligned(slots * kept.s * STATE, to))
        for kept, layers in alike.items()
    )
