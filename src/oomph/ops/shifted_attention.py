"""MiMo-V2-Flash's own attention: scores less the largest of them before the softmax, with or without a sink.

Shapes [B, N, S, D] for queries, [B, K, T, D] for keys, [B, K, T, V] for values.
"""

from __future__ import annotations

from oomph.ops.attention import needed, repeat_kv
from oomph.ops.elementwise import cast, dropout
from oomph.ops.indexing import contiguous, expand, transpose, view
from oomph.ops.joining import cat
from oomph.ops.matmul import matmul
from oomph.ops.routing import largest
from oomph.ops.slices import slice_axis
from oomph.ops.softmax import softmax_as_is
from oomph.tape.sym import Sym


def shifted_attention(
    query: Sym, key: Sym, value: Sym, sinks: Sym | None, mask: Sym | None, rate: float
) -> tuple[Sym, Sym]:
    """Mirror MiMo-V2-Flash's eager_attention_forward: the output [B, S, N, V] and the weights [B, N, S, T].

    Saves q and the repeated keys, the indices of the largest scores, the softmax in the scores' dtype, [B, N, S, T], or
    [B, N, S, T + 1] with `sinks` [N], and the repeated values. Source: transformers 5.23,
    models/mimo_v2_flash/modeling_mimo_v2_flash.py.

    >>> from oomph.tape.testing import cost, frozen, transposed
    >>> def eager(q, k, v, mask):
    ...     return transposed(shifted_attention, None, mask, 0.0)(q, k, v)[0]
    >>> cost(eager, *[(1, 64, 2, 128)] * 3, frozen(1, 1, 64, 64)).saved
    115712
    """
    times = query.shape[1] // key.shape[1]
    key_states = repeat_kv(key, times)
    value_states = repeat_kv(value, times)
    attn_weights = matmul(query, transpose(key_states, 2, 3)) * 1.0
    attn_weights = attn_weights + needed(mask)
    if sinks is not None:
        batch, heads, length, _ = query.shape
        sinks = expand(view(sinks, (1, heads, 1, 1)), (batch, heads, length, 1))
        attn_weights = cat([attn_weights, sinks], -1)
    attn_weights = attn_weights - largest(attn_weights, keepdim=True)
    probs = softmax_as_is(attn_weights)
    if sinks is not None:
        probs = slice_axis(probs, -1, 0, probs.shape[-1] - 1)
    attn_weights = cast(dropout(probs, rate), value_states.dtype)
    attn_output = matmul(attn_weights, value_states)
    attn_output = contiguous(transpose(attn_output, 1, 2))
    return attn_output, attn_weights
