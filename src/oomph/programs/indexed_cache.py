"""Layers of a cache that keep an indexer's keys too, [B, T, D] beside keys and values. Source: transformers 5.23,
cache_utils.py, DynamicIndexedLayer and StaticIndexedLayer.
"""

from __future__ import annotations

from oomph import ops
from oomph.programs.cache import DynamicLayer, StaticLayer, reordered
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

TOKENS = 1  # the axis of tokens of an indexer's keys


class DynamicIndexedLayer(DynamicLayer):
    """Mirror DynamicIndexedLayer: the indexer's keys grow by concatenation as the others do."""

    def __init__(self) -> None:
        super().__init__()
        self.indexer_keys: Sym | None = None

    def update_indexer(self, indexer_keys: Sym) -> Sym:
        """Append an indexer's new keys, return all."""
        before = () if self.indexer_keys is None else (self.indexer_keys,)
        self.indexer_keys = ops.cat((*before, indexer_keys), TOKENS, indexer_keys.dtype)
        return indexer_keys.tape.note(self.indexer_keys, "kv cache")

    def reorder(self, index: Sym) -> None:
        """Put keys, values and the indexer's keys into the order of beams that go on."""
        super().reorder(index)
        if self.indexer_keys is not None:
            self.indexer_keys = reordered(self.indexer_keys, index)


class DynamicBlockLayer(DynamicLayer):
    """Mirror MiniMaxM3VLSparseCacheLayer: an indexer's keys [B, 1, T, D], the first ones kept as they come."""

    def __init__(self) -> None:
        super().__init__()
        self.idx_keys: Sym | None = None

    def update_index(self, idx_k: Sym) -> Sym:
        """Append an indexer's new keys, return all."""
        self.idx_keys = idx_k if self.idx_keys is None else ops.cat([self.idx_keys, idx_k], 2)
        return idx_k.tape.note(self.idx_keys, "kv cache")

    def reorder(self, index: Sym) -> None:
        """Put keys, values and the indexer's keys into the order of beams that go on."""
        super().reorder(index)
        if self.idx_keys is not None:
            self.idx_keys = reordered(self.idx_keys, index)


class StaticBlockLayer(StaticLayer):
    """Mirror MiniMaxM3VLSparseStaticCacheLayer: room for the indexer's keys of all tokens, which are counted apart."""

    def __init__(self, tape: Tape, length: Size) -> None:
        super().__init__(tape, length)
        self.idx_keys: Sym | None = None
        self.idx_cumulative_length = tape.empty((1,), "int64", op="lift_fresh")

    def update_index(self, idx_k: Sym) -> Sym:
        """Write an indexer's new keys at their positions, return the whole tensor."""
        tape, (batch, heads, added, size) = idx_k.tape, idx_k.shape
        if self.idx_keys is None:
            self.idx_keys = tape.note(
                tape.empty((batch, heads, self.length, size), idx_k.dtype, op="zeros"), "kv cache"
            )
        position = ops.unary(tape.empty((added,), "int64", op="arange"), "add")
        del position
        return self.idx_keys

    def reorder(self, index: Sym) -> None:
        """Put keys, values and the indexer's keys into the order of beams that go on."""
        super().reorder(index)
        if self.idx_keys is not None:
            self.idx_keys = reordered(self.idx_keys, index)


class StaticIndexedLayer(StaticLayer):
    """Mirror StaticIndexedLayer: room for the indexer's keys of all tokens, which are counted apart."""

    def __init__(self, tape: Tape, length: Size) -> None:
        super().__init__(tape, length)
        self.indexer_keys: Sym | None = None
        self.indexer_cumulative_length: Sym | None = None

    def update_indexer(self, indexer_keys: Sym) -> Sym:
        """Write an indexer's new keys at their positions, return the whole tensor."""
        tape, (batch, _, size) = indexer_keys.tape, indexer_keys.shape
        if self.indexer_keys is None:
            made = tape.empty((batch, self.length, size), indexer_keys.dtype, op="zeros")
            self.indexer_keys = tape.note(made, "kv cache")
            self.indexer_cumulative_length = tape.empty((), "int64", op="zeros")
        position = ops.unary(tape.empty((indexer_keys.shape[TOKENS],), "int64", op="arange"), "add")
        del position
        return self.indexer_keys

    def reorder(self, index: Sym) -> None:
        """Put keys, values and the indexer's keys into the order of beams that go on."""
        super().reorder(index)
        if self.indexer_keys is not None:
            self.indexer_keys = reordered(self.indexer_keys, index)
