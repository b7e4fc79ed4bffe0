"""Caches of keys and values, [B, K, T, D] per layer. Source: transformers 5.23, cache_utils.py.

Attributes are set in the order of the real classes: an object's attributes die in that order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

OLD: Final = "4.38"  # a release of transformers
LINEAR: Final = "linear"  # in place of a window: a layer of this kind keeps states instead of keys and values
HYBRID: Final = "hybrid"  # keeps both
INDEXED: Final = "indexed"  # keeps an indexer's keys beside keys and values
BLOCKS: Final = "blocks"  # the same of an indexer that picks blocks of tokens


class DynamicLayer:
    """Mirror DynamicLayer: grows by concatenation, old and new alive side by side for a moment."""

    window: Size | None = None

    def __init__(self) -> None:
        self.keys: Sym | None = None
        self.values: Sym | None = None

    def update(self, key_states: Sym, value_states: Sym) -> tuple[Sym, Sym]:
        """Append new keys and values, return all."""
        self.keys = _appended(self.keys, key_states, key_states.dtype)
        self.values = _appended(self.values, value_states, key_states.dtype)
        return self.keys, self.values

    def reorder(self, index: Sym) -> None:
        """Put the sequences into the order of beams that go on: one copy of the keys, then one of the values."""
        if self.keys is not None and self.values is not None:
            self.keys = reordered(self.keys, index)
            self.values = reordered(self.values, index)

    def seq_length(self) -> Size | Sym:
        """Return how many tokens were seen."""
        return 0 if self.keys is None else self.keys.shape[2]

    def mask_sizes(self, query_length: Size) -> tuple[Size, Size]:
        """Return number and offset of the keys that queries will see."""
        seen = self.seq_length()
        return (query_length if isinstance(seen, Sym) else seen + query_length), 0


class DynamicSlidingWindowLayer(DynamicLayer):
    """Mirror DynamicSlidingWindowLayer: keeps the last window - 1 tokens, as views of all it last attended to."""

    def __init__(self, tape: Tape, window: Size) -> None:
        super().__init__()
        self.window = self._window = window
        self.cumulative_length: Size = 0
        self.window_tensor = tape.empty((), "int64", op="lift_fresh")

    def update(self, key_states: Sym, value_states: Sym) -> tuple[Sym, Sym]:
        """Append new keys and values, return all, keep the last ones."""
        self.cumulative_length = self.cumulative_length + key_states.shape[2]
        full_key_states = _appended(self.keys, key_states, key_states.dtype)
        full_value_states = _appended(self.values, value_states, key_states.dtype)
        self.keys = self._last(full_key_states)
        self.values = self._last(full_value_states)
        return full_key_states, full_value_states

    def _last(self, states: Sym) -> Sym:
        length, kept = states.shape[2], self._window - 1
        if yes(kept == 0) or yes(length <= kept):  # states[-0:] are all
            return ops.slice_axis(states, 2, 0, length)
        return ops.slice_axis(states, 2, length - kept, length)

    def seq_length(self) -> Size | Sym:
        """Return how many tokens were seen."""
        return self.cumulative_length

    def mask_sizes(self, query_length: Size) -> tuple[Size, Size]:
        """Return number and offset of the keys that queries will see."""
        seen, window = self.cumulative_length, self._window
        if yes(seen < window):
            return seen + query_length, 0
        return window - 1 + query_length, seen - window + 1


class LinearAttentionLayer:
    """Mirror LinearAttentionLayer: the last K inputs of a convolution [B, C, K], and a state that takes in every token;
    both are written in place.
    """

    window: Size | None = None
    keys: Sym | None = None
    values: Sym | None = None

    def __init__(self) -> None:
        self.conv_states: Sym | None = None
        self.recurrent_states: Sym | None = None
        self.has_previous_state = False

    def update_conv_state(self, conv_states: Sym, conv_kernel_size: Size) -> Sym:
        """Put new inputs in, return them behind those that were there, or behind zeros if they are too few."""
        tape, (batch, channels, length) = conv_states.tape, conv_states.shape
        if self.conv_states is None:
            made = tape.empty((batch, channels, conv_kernel_size), conv_states.dtype, op="zeros")
            self.conv_states = tape.note(made, "kv cache")
        if self.has_previous_state:
            full_conv_states = ops.cat([self.conv_states, conv_states], 2)
        elif yes(length >= conv_kernel_size):
            full_conv_states = conv_states
        else:
            full_conv_states = ops.pad_axis(conv_states, 2, conv_kernel_size - length, 0)
        self.has_previous_state = True
        total = full_conv_states.shape[2]
        self.conv_states = ops.copied(
            self.conv_states, ops.slice_axis(full_conv_states, 2, total - conv_kernel_size, total)
        )
        return full_conv_states

    def reorder(self, index: Sym) -> None:
        """Put the states into the order of beams that go on."""
        if self.conv_states is not None:
            self.conv_states = reordered(self.conv_states, index)
        if self.recurrent_states is not None:
            self.recurrent_states = reordered(self.recurrent_states, index)

    def update_recurrent_state(self, recurrent_states: Sym) -> Sym:
        """Put a new state in, return the tensor it is in."""
        if self.recurrent_states is None:
            self.recurrent_states = recurrent_states.tape.note(ops.zeros_like(recurrent_states), "kv cache")
        self.recurrent_states = ops.copied(self.recurrent_states, recurrent_states)
        return self.recurrent_states


class HybridLayer(LinearAttentionLayer, DynamicLayer):
    """Mirror LinearAttentionAndFullAttentionLayer: states, and keys and values that grow."""

    def __init__(self) -> None:
        DynamicLayer.__init__(self)
        LinearAttentionLayer.__init__(self)

    def reorder(self, index: Sym) -> None:
        """Put states, then keys and values into the order of beams that go on."""
        LinearAttentionLayer.reorder(self, index)
        DynamicLayer.reorder(self, index)


def _appended(states: Sym | None, more: Sym, dtype: str) -> Sym:
    """Return states and more; at first the states are empty, of the keys' dtype, which under autocast is fp32.

    transformers 4.51 took the first ones as they came (cache_utils.py, DynamicCache.update).
    """
    if states is None:
        return more if more.tape.heads_of_4_51 or more.tape.release == OLD else ops.cat((more,), 2, dtype)
    return ops.cat((states, more), 2)


def reordered(states: Sym, index: Sym) -> Sym:
    """Return states.index_select(0, index), which stays."""
    made = states.tape.empty(states.shape, states.dtype, op="index_select")
    return states.tape.note(made, "kv cache")


class Cache:
    """One cache layer per decoder layer."""

    is_static = False

    def __init__(self, layers: Sequence[AnyLayer]) -> None:
        self.layers = list(layers)

    def update(self, key_states: Sym, value_states: Sym, index: int) -> tuple[Sym, Sym]:
        """Put keys and values of one layer in, return those to attend to."""
        layer: Any = self.layers[index]
        attended: tuple[Sym, Sym] = layer.update(key_states, value_states)
        for each in (layer.keys, layer.values):
            if each is not None:
                each.tape.note(each, "kv cache")
        return attended

    def seq_length(self) -> Size | Sym:
        """Return how many tokens the first attention layer has seen, a tensor in static layers that are in use."""
        return self._attending()[0].seq_length()

    def mask_sizes(self, query_length: Size, window: Size | None) -> tuple[Size | Sym, Size, Size]:
        """Return query offset, number of keys and their offset for layers with or without a window."""
        attending = self._attending()
        alike = [layer for layer in attending if (layer.window is None) == (window is None)]
        layer = alike[0] if alike else attending[0]
        return layer.seq_length(), *layer.mask_sizes(query_length)

    def _attending(self) -> list[DynamicLayer | StaticLayer]:
        found = [layer for layer in self.layers if isinstance(layer, (DynamicLayer, StaticLayer))]
        if not found:
            raise UnsupportedError("transformers' caches need a layer that attends.", "Say --cache none.")
        return found

    def reorder(self, index: Sym) -> None:
        """Put the sequences of all layers into the order of the beams that go on, int32 [B * N]."""
        for layer in self.layers:
            layer.reorder(index)

    def conv_state(self, index: int) -> Sym | None:
        """Return the last inputs of a layer's convolution, None before there are any."""
        layer = self.layers[index]
        return layer.conv_states if isinstance(layer, LinearAttentionLayer) else None

    def update_conv_state(self, conv_states: Sym, index: int, conv_kernel_size: Size) -> Sym:
        """Put inputs of a layer's convolution in, return what to convolve."""
        layer: Any = self.layers[index]
        made: Sym = layer.update_conv_state(conv_states, conv_kernel_size)
        return made

    def recurrent_state(self, index: int) -> Sym | None:
        """Return a layer's recurrent state, None before there is one."""
        layer = self.layers[index]
        return layer.recurrent_states if isinstance(layer, LinearAttentionLayer) else None

    def update_recurrent_state(self, recurrent_states: Sym, index: int) -> None:
        """Put a layer's recurrent state in."""
        layer: Any = self.layers[index]
        layer.update_recurrent_state(recurrent_states)


class StaticLayer:
    """Mirror StaticLayer: `length` tokens are allocated at the first use and written in place."""

    window: Size | None = None

    def __init__(self, tape: Tape, length: Size) -> None:
        self.keys: Sym | None = None
        self.values: Sym | None = None
        self.length = length
        self.cumulative_length = tape.empty((), "int64", op="lift_fresh")

    def fill(self, key_states: Sym, value_states: Sym) -> tuple[Sym, Sym]:
        """Return the tensors, allocated if they are not yet."""
        if self.keys is None or self.values is None:
            batch, heads, _, size = key_states.shape
            shape = (batch, heads, self.length)
            self.keys = key_states.tape.empty((*shape, size), key_states.dtype, op="zeros")
            self.values = value_states.tape.empty((*shape, value_states.shape[-1]), value_states.dtype, op="zeros")
        return self.keys, self.values

    def update(self, key_states: Sym, value_states: Sym) -> tuple[Sym, Sym]:
        """Write new keys and values at their positions, return the whole tensors."""
        keys, values = self.fill(key_states, value_states)
        self.write(key_states)
        return keys, values

    def reorder(self, index: Sym) -> None:
        """Put the sequences into the order of beams that go on: in new tensors, after a look at the counter."""
        self.is_used(index.tape)
        if self.keys is not None and self.values is not None:
            self.keys = reordered(self.keys, index)
            self.values = reordered(self.values, index)

    def is_used(self, tape: Tape) -> None:
        """Play the question whether any token was seen, where they are counted on the device."""
        if isinstance(self.seq_length(), Sym):
            used = tape.empty((), "bool", op="gt")
            del used

    def write(self, key_states: Sym) -> None:
        """Play index_copy_ at positions arange(new) + cumulative_length."""
        position = ops.unary(key_states.tape.empty((key_states.shape[2],), "int64", op="arange"), "add")
        del position

    def seq_length(self) -> Size | Sym:
        """Return how many tokens were seen: a tensor once the layer is in use."""
        return 0 if self.keys is None else self.cumulative_length

    def mask_sizes(self, query_length: Size) -> tuple[Size, Size]:
        """Return number and offset of the keys that queries will see."""
        return self.length, 0


class StaticSlidingWindowLayer(StaticLayer):
    """Mirror StaticSlidingWindowLayer: at most a window of tokens is allocated; full, it is rolled."""

    def __init__(self, tape: Tape, length: Size, window: Size) -> None:
        super().__init__(tape, window if yes(window < length) else length)
        self.window = window
        self.seen: Size = 0

    def update(self, key_states: Sym, value_states: Sym) -> tuple[Sym, Sym]:
        """Write new keys and values, return what to attend to: the tensors, or more where a window overflows."""
        keys, values = self.fill(key_states, value_states)
        tape, added, seen = key_states.tape, key_states.shape[2], self.seen
        self.seen = seen + added
        if yes(seen >= self.length):
            if yes(added == 1):
                new_keys = ops.unary(keys, "roll")
                new_values = ops.unary(values, "roll")
                index = tape.empty((1,), "int64", op="lift_fresh")
                del new_keys, new_values, index
                return keys, values
            return (
                ops.cat((ops.slice_axis(keys, 2, 1, self.length), key_states), 2),
                ops.cat((ops.slice_axis(values, 2, 1, self.length), value_states), 2),
            )
        if yes(seen + added > self.length):
            if yes(seen == 0):
                return key_states, value_states
            return (
                ops.cat((ops.slice_axis(keys, 2, 0, seen), key_states), 2),
                ops.cat((ops.slice_axis(values, 2, 0, seen), value_states), 2),
            )
        self.write(key_states)
        return keys, values

    def seq_length(self) -> Size | Sym:
        """Return how many tokens were seen, a plain number here."""
        return self.seen

    def mask_sizes(self, query_length: Size) -> tuple[Size, Size]:
        """Return number and offset of the keys that queries will see."""
        seen, window = self.seen, self.length
        offset = seen - window + 1 if yes(seen - window + 1 > 0) else 0
        if yes(seen >= window):
            return window + query_length - 1, offset
        return (seen + query_length if yes(seen + query_length > window) else window), offset


class EncoderDecoderCache:
    """Mirror EncoderDecoderCache: what a decoder keeps of itself, and of an encoder once it has been there.

    Attributes die in the order they were set.
    """

    def __init__(self, self_attention: Cache, cross_attention: Cache) -> None:
        self.self_attention = self_attention
        self.cross_attention = cross_attention
        self.is_updated: set[int] = set()

    def update(self, key_states: Sym, value_states: Sym, index: int, key_value_states: Sym | None) -> tuple[Sym, Sym]:
        """Put keys and values of a layer in, of an encoder's states if there are any; return all that is there."""
        if key_value_states is None:
            return self.self_attention.update(key_states, value_states, index)
        self.is_updated.add(index)
        return self.cross_attention.update(key_states, value_states, index)

    def reorder(self, index: Sym) -> None:
        """Put the sequences into the order of beams that go on; of the encoder's keys too, though all are alike."""
        self.self_attention.reorder(index)
        self.cross_attention.reorder(index)

    def crossed(self, index: int) -> tuple[Sym, Sym] | None:
        """Return the keys and values of the encoder in a layer, None before there are any."""
        layer = self.cross_attention.layers[index]
        if index not in self.is_updated or layer.keys is None or layer.values is None:
            return None
        return layer.keys, layer.values


AnyLayer: TypeAlias = "DynamicLayer | StaticLayer | LinearAttentionLayer"


class StaticCache(Cache):
    """A cache whose tensors never move or grow."""

    is_static = True


def dynamic_cache(tape: Tape, windows: Sequence[Size | None]) -> Cache:
    """Return DynamicCache(config): a growing layer, one with a window, or one without keys, for each decoder layer."""
    return Cache([_dynamic_layer(tape, window) for window in windows])


def _dynamic_layer(tape: Tape, window: Any) -> AnyLayer:
    if window is LINEAR:
        return LinearAttentionLayer()
    if window is HYBRID:
        return HybridLayer()
    if hasattr(window, "layer"):  # programs/compressed_cache.py
        made: DynamicLayer = window.layer(tape)
        return made
    if window is INDEXED:
        from oomph.programs.indexed_cache import DynamicIndexedLayer

        return DynamicIndexedLayer()
    if window is BLOCKS:
        from oomph.programs.indexed_cache import DynamicBlockLayer

        return DynamicBlockLayer()
    return DynamicLayer() if window is None else DynamicSlidingWindowLayer(tape, window)


def static_cache(tape: Tape, windows: Sequence[Size | None], length: Size) -> Cache:
    """Return StaticCache(config, max_cache_len=length)."""
    return StaticCache([_static_layer(tape, window, length) for window in windows])


def _static_layer(tape: Tape, window: Any, length: Size) -> AnyLayer:
    if window is LINEAR:
        return LinearAttentionLayer()
    if window is HYBRID:
        raise UnsupportedError("oomph cannot play layers of two kinds in a static cache.", "Say --cache dynamic.")
    if hasattr(window, "layer"):
        raise UnsupportedError("This class folds tokens, which needs a growing cache.", "Say --cache dynamic.")
    if window is INDEXED:
        from oomph.programs.indexed_cache import StaticIndexedLayer

        return StaticIndexedLayer(tape, length)
    if window is BLOCKS:
        from oomph.programs.indexed_cache import StaticBlockLayer

        return StaticBlockLayer(tape, length)
    return StaticLayer(tape, length) if window is None else StaticSlidingWindowLayer(tape, length, window)


def encoder_decoder_cache(tape: Tape, layers: int) -> EncoderDecoderCache:
    """Return EncoderDecoderCache(DynamicCache(config), DynamicCache(config)) of a decoder of so many layers."""
    windows: list[Size | None] = [None] * layers
    return EncoderDecoderCache(dynamic_cache(tape, windows), dynamic_cache(tape, windows))
