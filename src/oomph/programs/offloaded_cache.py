"""Caches whose layers wait in the machine's memory; the next one is brought back while a layer attends.

Source: transformers 5.23, cache_utils.py, Cache.update, Cache.prefetch and CacheLayerMixin.offload. On a GPU what is
brought back lies in blocks of a stream of its own, which the allocator does not hand to other tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.errors import UnsupportedError
from oomph.programs.cache import (
    INDEXED,
    AnyLayer,
    Cache,
    LinearAttentionLayer,
    StaticCache,
    StaticLayer,
    dynamic_cache,
    static_cache,
)
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, is_on_host, new, on_host
from oomph.tape.tape import Tape


class OffloadedCache(Cache):
    """A cache that moves its layers; of a static one those with a window stay."""

    def __init__(self, layers: Sequence[AnyLayer], only_without_window: bool) -> None:
        super().__init__(layers)
        self.only_without_window = only_without_window
        self.moved = [place for place, layer in enumerate(layers) if self._goes(layer)]
        if not self.moved:
            raise UnsupportedError("This model has no layer whose cache is offloaded.", "Say --cache dynamic.")

    def _goes(self, layer: AnyLayer) -> bool:
        if isinstance(layer, LinearAttentionLayer):
            return False
        return layer.window is None or not self.only_without_window

    def update(self, key_states: Sym, value_states: Sym, index: int) -> tuple[Sym, Sym]:
        """Bring the next layer back, put keys and values of this one in, send it away; return those to attend to."""
        self._prefetch(index + 1)
        attended = super().update(key_states, value_states, index)
        layer = self.layers[index]
        if self._goes(layer):
            layer.keys = _away(layer.keys)
            layer.values = _away(layer.values)
        return attended

    def reorder(self, index: Sym) -> None:
        """Put the sequences into the order of beams that go on: what is away where it is."""
        for layer in self.layers:
            if not is_on_host(layer.keys):
                layer.reorder(index)
            elif isinstance(layer, StaticLayer):
                layer.is_used(index.tape)

    def _prefetch(self, index: int) -> None:
        """Bring back the first moved layer from `index` on, or the first of all."""
        layer = self.layers[next((place for place in self.moved if place >= index), self.moved[0])]
        if is_on_host(layer.keys):
            layer.keys = _back(layer.keys)
            layer.values = _back(layer.values)


class OffloadedStaticCache(OffloadedCache, StaticCache):
    """The same of static layers."""


def _away(states: Sym | None) -> Sym | None:
    return None if states is None else on_host(states.tape, states.shape, states.dtype)


def _back(states: Sym | None) -> Sym | None:
    if states is None:
        return None
    return states.tape.note(new(states.tape, states.shape, states.dtype, op="to"), "kv cache")


def offloaded_cache(tape: Tape, windows: Sequence[Size | None], length: Size | None = None) -> Cache:
    """Return DynamicCache(config, offloading=True), or StaticCache of `length` tokens that does the same."""
    if INDEXED in windows:
        raise UnsupportedError("oomph plays no offloaded cache of an indexer's keys.", "Say --cache dynamic.")
    if length is None:
        return OffloadedCache(dynamic_cache(tape, windows).layers, only_without_window=False)
    return OffloadedStaticCache(static_cache(tape, windows, length).layers, only_without_window=True)
