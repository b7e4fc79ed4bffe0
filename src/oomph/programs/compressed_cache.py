"""Layers of a cache that fold tokens beyond their window into entries: DeepSeek-V4's, one tensor for keys and values.

Shape letters: B batch, S new tokens, W width of what is folded, D head dim. Source: transformers 5.23,
models/deepseek_v4/modeling_deepseek_v4.py, DeepseekV4HCACache and DeepseekV4CSACache.
"""

from __future__ import annotations

from dataclasses import dataclass

from oomph import ops
from oomph.programs.cache import DynamicSlidingWindowLayer, reordered
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

TOKENS = 1  # the axis of tokens of what waits to be folded, and of entries
States = dict[str, "Sym | None"]  # of the compressor and, where there is one, of its indexer


@dataclass(frozen=True)
class Compressed:
    """What a layer keeps of its past, in place of a window: that, and one entry for each `rate` tokens.

    `overlap`: entries see half of the tokens before theirs, and an indexer keeps entries of its own.
    """

    window: Size
    rate: Size
    overlap: bool

    def layer(self, tape: Tape) -> HeavilyCompressedLayer:
        """Return the empty layer of a dynamic cache."""
        made = SparselyCompressedLayer if self.overlap else HeavilyCompressedLayer
        return made(tape, self.window, self.rate)


class HeavilyCompressedLayer(DynamicSlidingWindowLayer):
    """Mirror DeepseekV4HCACache: the last tokens of a window once, entries, and tokens that wait to be folded."""

    def __init__(self, tape: Tape, window: Size, rate: Size) -> None:
        super().__init__(tape, window)
        self.rate = rate
        self.buffer_kv: States = {"compressor": None}
        self.buffer_gate: States = {"compressor": None}
        self.compressed_kv: States = {"compressor": None}

    def update(self, key_states: Sym, value_states: Sym) -> tuple[Sym, Sym]:
        """Append new tokens, which are keys and values, return all, keep the last ones."""
        self.cumulative_length = self.cumulative_length + key_states.shape[2]
        before = () if self.keys is None else (self.keys,)
        full = ops.cat((*before, key_states), 2, key_states.dtype)
        self.keys = self._last(full)
        self.values = self.keys
        return full, full

    def store_compression_weights(self, name: str, kv: Sym, gate: Sym) -> tuple[Sym, Sym]:
        """Put new values and gates [B, S, W] behind those that wait, return those of whole windows, keep the rest."""
        buffered_kv, buffered_gate = self.buffer_kv[name], self.buffer_gate[name]
        if buffered_kv is not None and buffered_gate is not None and yes(buffered_kv.shape[TOKENS] > 0):
            kv = ops.cat([buffered_kv, kv], TOKENS)
            gate = ops.cat([buffered_gate, gate], TOKENS)
        length = kv.shape[TOKENS]
        usable = length // self.rate * self.rate
        self.buffer_kv[name] = kv.tape.note(ops.part(kv, usable, length, TOKENS), "kv cache")
        self.buffer_gate[name] = kv.tape.note(ops.part(gate, usable, length, TOKENS), "kv cache")
        return ops.part(kv, 0, usable, TOKENS), ops.part(gate, 0, usable, TOKENS)

    def update_compressor_states(self, name: str, compressed: Sym) -> Sym:
        """Append new entries [B, n, D], return all."""
        before = self.compressed_kv[name]
        if before is None:
            self.compressed_kv[name] = compressed
        elif yes(compressed.shape[TOKENS] > 0):
            self.compressed_kv[name] = ops.cat([before, compressed], TOKENS)
        found = self.compressed_kv[name]
        assert found is not None
        return found.tape.note(found, "kv cache")

    def states(self) -> tuple[States, ...]:
        """Return what beams put into order beside the window."""
        return self.buffer_kv, self.buffer_gate, self.compressed_kv

    def reorder(self, index: Sym) -> None:
        """Put all there is into the order of beams that go on."""
        super().reorder(index)
        for states in self.states():
            for name, each in states.items():
                if each is not None:
                    states[name] = reordered(each, index)


class SparselyCompressedLayer(HeavilyCompressedLayer):
    """Mirror DeepseekV4CSACache: the same for an indexer too, and of the last window what the next entry sees of it."""

    def __init__(self, tape: Tape, window: Size, rate: Size) -> None:
        super().__init__(tape, window, rate)
        for states in (self.buffer_kv, self.buffer_gate, self.compressed_kv):
            states["indexer"] = None
        self.overlap_kv: States = {"compressor": None, "indexer": None}
        self.overlap_gate: States = {"compressor": None, "indexer": None}

    def update_overlap_state(
        self, name: str, chunk_kv: Sym, chunk_gate: Sym, head_dim: Size
    ) -> tuple[Sym | None, Sym | None]:
        """Keep half of the last window [B, n, rate, W], return what was kept before."""
        prior_kv, prior_gate = self.overlap_kv[name], self.overlap_gate[name]
        self.overlap_kv[name] = _half_of_the_last(chunk_kv, head_dim)
        self.overlap_gate[name] = _half_of_the_last(chunk_gate, head_dim)
        return prior_kv, prior_gate

    def states(self) -> tuple[States, ...]:
        """Return what beams put into order beside the window."""
        return *super().states(), self.overlap_kv, self.overlap_gate


def _half_of_the_last(chunk: Sym, head_dim: Size) -> Sym:
    """Return chunk[:, -1, :, :head_dim].clone()."""
    last = ops.part(ops.select(chunk, 1), 0, head_dim)
    return last.tape.note(ops.clone(last), "kv cache")
