"""A cache that keeps keys and values in fp8, [B, K, T, D] per layer. Source: transformers 5.23, cache_utils.py,
Fp8QuantizedLayer and QuantizedCache.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph import ops
from oomph.programs.cache import Cache, DynamicLayer, reordered
from oomph.programs.integer_cache import full_attention
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

FP8 = "fp8_e4m3"
Quantised = tuple[Sym, Sym]  # what is kept, and the one number it is multiplied with


class Fp8QuantizedLayer(DynamicLayer):
    """Mirror Fp8QuantizedLayer: the first states set the scale; from the second pass on all are made wide again."""

    def __init__(self) -> None:
        super().__init__()
        self.cumulative_length: Size = 0
        self.quantized_keys: Quantised | None = None
        self.quantized_values: Quantised | None = None

    def update(self, key_states: Sym, value_states: Sym) -> tuple[Sym, Sym]:
        """Append new keys and values; return the first ones as they came, later all that is kept, dequantised."""
        self.cumulative_length = self.cumulative_length + key_states.shape[2]
        if self.quantized_keys is None or self.quantized_values is None:
            self.quantized_keys = _noted(quantise(key_states))
            self.quantized_values = _noted(quantise(value_states))
            return key_states, value_states
        quantized_keys, key_scale = self.quantized_keys
        quantized_values, value_scale = self.quantized_values
        new_keys, _ = quantise(key_states, key_scale)
        new_values, _ = quantise(value_states, value_scale)
        self.quantized_keys = _noted((ops.cat((quantized_keys, new_keys), 2, FP8), key_scale))
        self.quantized_values = _noted((ops.cat((quantized_values, new_values), 2, FP8), value_scale))
        keys_to_return = dequantise(self.quantized_keys, key_states.dtype)
        values_to_return = dequantise(self.quantized_values, key_states.dtype)
        return keys_to_return, values_to_return

    def reorder(self, index: Sym) -> None:
        """Put the sequences into the order of beams that go on: in fp8, then all is there twice for a moment."""
        if self.quantized_keys is None or self.quantized_values is None:
            return
        (keys, key_scale), (values, value_scale) = self.quantized_keys, self.quantized_values
        self.quantized_keys = (reordered(keys, index), key_scale)
        self.quantized_values = (reordered(values, index), value_scale)

    def seq_length(self) -> Size | Sym:
        """Return how many tokens were seen."""
        return self.cumulative_length


def quantise(tensor: Sym, scale: Sym | None = None) -> Quantised:
    """Mirror Fp8QuantizedLayer._quantize: the tensor in fp8, and its scale, which is measured if there is none."""
    if scale is None:
        largest = ops.unary(tensor, "abs")
        largest = tensor.tape.empty((), tensor.dtype, op="amax")
        largest = ops.cast(largest, "fp32")
        largest = ops.unary(largest, "div")
        scale = ops.unary(largest, "clamp")
        del largest
    wide = ops.cast(tensor, "fp32")
    wide = ops.unary(wide, "div")
    return ops.cast(wide, FP8), scale


def dequantise(quantised: Quantised, dtype: str) -> Sym:
    """Mirror Fp8QuantizedLayer._dequantize."""
    wide = ops.cast(quantised[0], "fp32")
    wide = ops.unary(wide, "mul")
    return ops.cast(wide, dtype)


def _noted(quantised: Quantised) -> Quantised:
    quantised[0].tape.note(quantised[0], "kv cache")
    return quantised


def fp8_cache(windows: Sequence[Size | None]) -> Cache:
    """Return QuantizedCache("fp8", config). Raises UnsupportedError where a layer is no full attention, as it does."""
    full_attention(windows)
    return Cache([Fp8QuantizedLayer() for _ in windows])
