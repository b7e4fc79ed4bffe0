"""Caches that keep keys and values as integer codes in groups, with the last tokens beside them as they came.

Source: transformers 5.23, cache_utils.py, QuantizedLayer; what quantises: programs/quantisers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.programs.cache import Cache, DynamicLayer
from oomph.programs.quantisers import Codes, Hqq, Quanto
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.job import InferJob

Quantiser = Quanto | Hqq
TOKENS = 2  # the axis of tokens in [B, K, T, D]


class QuantizedLayer(DynamicLayer):
    """Mirror QuantizedLayer: every pass makes all codes wide again; when the residual is full, all are quantised anew.

    `keys` and `values` are the residual, None when it is empty.
    """

    def __init__(self, quantiser: Quantiser, residual: int) -> None:
        super().__init__()
        self.cumulative_length: Size = 0
        self.quantiser, self.residual_length = quantiser, residual
        self.quantized_keys: Codes | None = None
        self.quantized_values: Codes | None = None
        self.index: Sym | None = None  # which sequences beams go on from, until the codes are read

    def update(self, key_states: Sym, value_states: Sym) -> tuple[Sym, Sym]:
        """Append new keys and values; return the first ones as they came, later all that is kept, dequantised."""
        quantise = self.quantiser.quantise
        self.cumulative_length = self.cumulative_length + key_states.shape[TOKENS]
        if self.quantized_keys is None or self.quantized_values is None:
            self.quantized_keys = _kept(quantise, ops.contiguous(key_states))
            self.quantized_values = _kept(quantise, ops.contiguous(value_states))
            return key_states, value_states
        dequant_keys = self.quantiser.dequantise(self.quantized_keys)
        dequant_values = self.quantiser.dequantise(self.quantized_values)
        dequant_keys, dequant_values = self._in_order(dequant_keys, dequant_values)
        keys_to_return = _joined(dequant_keys, self.keys, key_states)
        values_to_return = _joined(dequant_values, self.values, value_states)
        held: Size = 0 if self.keys is None else self.keys.shape[TOKENS]
        if yes(held + key_states.shape[TOKENS] >= self.residual_length):
            self.quantized_keys = _kept(quantise, keys_to_return)
            self.quantized_values = _kept(quantise, values_to_return)
            self.keys = self.values = None
            self.index = None
        else:
            self.keys = _joined(self.keys, key_states)
            self.values = _joined(self.values, value_states)
        return keys_to_return, values_to_return

    def reorder(self, index: Sym) -> None:
        """Put the residual into the order of beams that go on; codes only when they are read."""
        if self.index is None:
            self.index = index.tape.empty(index.shape, index.dtype, op="clone")
        else:
            self.index = index.tape.empty(index.shape, index.dtype, op="index_select")
        super().reorder(index)

    def _in_order(self, keys: Sym, values: Sym) -> tuple[Sym, Sym]:
        """Mirror _apply_pending_reorder."""
        if self.index is None:
            return keys, values
        return _chosen(keys), _chosen(values)

    def seq_length(self) -> Size | Sym:
        """Return how many tokens were seen."""
        return self.cumulative_length


def _chosen(states: Sym) -> Sym:
    return states.tape.empty(states.shape, states.dtype, op="index_select")


def _joined(*states: Sym | None) -> Sym:
    """Return torch.cat of states along the tokens; an empty residual adds nothing."""
    return ops.cat([each for each in states if each is not None], TOKENS)


def _kept(quantise: Callable[[Sym], Codes], states: Sym) -> Codes:
    codes = quantise(states)
    for each in (codes.codes, codes.scale, codes.zero):
        each.tape.note(each, "kv cache")
    return codes


def integer_cache(job: InferJob, windows: Sequence[Size | None]) -> Cache:
    """Return QuantizedCache(backend, config, ...). Raises UnsupportedError where a layer is no full attention, as it
    does.
    """
    full_attention(windows)
    kind: Any = {"quanto": Quanto, "hqq": Hqq}[job.cache]
    quantiser = kind(job.cache_bits, job.cache_group, job.cache_axis)
    return Cache([QuantizedLayer(quantiser, job.cache_residual) for _ in windows])


def full_attention(windows: Sequence[Size | None]) -> None:
    """Refuse what transformers refuses: to quantise caches of layers with a window, or without keys."""
    if any(window is not None for window in windows):
        raise UnsupportedError(
            "transformers quantises caches of models with full attention in every layer only.", "Say --cache dynamic."
        )
