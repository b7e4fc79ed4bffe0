"""How transformers attends: its eager kernel written out, and its way into torch's scaled_dot_product_attention.

Shapes [B, N, S, D] for queries, [B, K, T, D] for keys and values. Source: transformers 5.23,
integrations/sdpa_attention.py; eager_attention_forward in models/llama/modeling_llama.py and gpt2/modeling_gpt2.py.
"""

from __future__ import annotations

from oomph.errors import UnsupportedError
from oomph.ops.elementwise import cast, dropout, softmax
from oomph.ops.indexing import contiguous, expand, slice_axis, transpose, unsqueeze, view
from oomph.ops.matmul import matmul
from oomph.ops.sdpa import FLASH_HEAD_DIM, Call, scaled_dot_product_attention
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym


def attention(query: Sym, key: Sym, value: Sym, mask: Sym | None, rate: float) -> tuple[Sym, Sym | None]:
    """Run the job's attention kernel; returns the output [B, S, N, D] and, from the eager one, the weights."""
    if query.tape.kernel == "eager":
        return eager_attention(query, key, value, _needed(mask), rate)
    return sdpa_attention(query, key, value, mask, rate), None


def _needed(mask: Sym | None) -> Sym:
    if mask is None:
        raise UnsupportedError("The eager kernel needs a mask.", "Say --attention flash, or trace the model.")
    return mask


def sdpa_attention(query: Sym, key: Sym, value: Sym, mask: Sym | None, rate: float) -> Sym:
    """Mirror sdpa_attention_forward.

    Fewer key heads are left to the kernel without a mask, folded into the queries of a single token, else repeated.
    Without a mask several queries are causal; of a static cache just filled only the filled part is looked at.
    """
    batch, heads, length, size = query.shape
    grouped = False
    if not yes(heads == key.shape[1]):
        times = heads // key.shape[1]
        if mask is None and yes(size <= FLASH_HEAD_DIM):
            grouped = True
        elif yes(length == 1):
            query = view(query, (batch, key.shape[1], times, size))
        else:
            key = repeat_kv(key, times)
            value = repeat_kv(value, times)
    is_causal = mask is None and not yes(length == 1)
    if is_causal and yes(key.shape[2] > length):
        key = slice_axis(key, 2, 0, length)
        value = slice_axis(value, 2, 0, length)
    call = Call(mask, rate if query.tape.dropout else 0.0, is_causal, grouped)
    attn_output = scaled_dot_product_attention(query, key, value, call)
    attn_output = view(attn_output, (batch, heads, length, size))
    attn_output = contiguous(transpose(attn_output, 1, 2))
    return attn_output


def repeat_kv(hidden_states: Sym, times: Size) -> Sym:
    """Mirror repeat_kv: [B, K, T, D] to [B, K·times, T, D], a copy unless times is 1.

    >>> from oomph.tape import Tape
    >>> repeat_kv(Tape().empty((1, 8, 100, 128), "bf16"), 4).storage.n_bytes == 4 * 8 * 100 * 128 * 2
    True
    """
    batch, heads, length, size = hidden_states.shape
    if yes(times == 1):
        return hidden_states
    hidden_states = expand(unsqueeze(hidden_states, 2), (batch, heads, times, length, size))
    return view(hidden_states, (batch, heads * times, length, size))


def eager_attention(query: Sym, key: Sym, value: Sym, mask: Sym, rate: float) -> tuple[Sym, Sym]:
    """Mirror Llama's eager_attention_forward: scores [B, N, S, T], in fp32 for the softmax, cast back, multiplied."""
    times = query.shape[1] // key.shape[1]
    key_states = repeat_kv(key, times)
    value_states = repeat_kv(value, times)
    attn_weights = matmul(query, transpose(key_states, 2, 3)) * 1.0
    attn_weights = attn_weights + mask
    attn_weights = cast(softmax(cast(attn_weights, "fp32")), query.dtype)
    attn_weights = dropout(attn_weights, rate)
    attn_output = matmul(attn_weights, value_states)
    attn_output = contiguous(transpose(attn_output, 1, 2))
    return attn_output, attn_weights


def gpt2_attention(query: Sym, key: Sym, value: Sym, mask: Sym | None, rate: float) -> tuple[Sym, Sym | None]:
    """Run the job's kernel for GPT-2, whose eager form keeps the softmax in the scores' dtype but under autocast."""
    if query.tape.kernel != "eager":
        return sdpa_attention(query, key, value, mask, rate), None
    attn_weights = matmul(query, transpose(key, 2, 3)) * 1.0
    attn_weights = attn_weights + _needed(mask)
    attn_weights = softmax(attn_weights)
    attn_weights = cast(attn_weights, value.dtype)
    attn_weights = dropout(attn_weights, rate)
    attn_output = matmul(attn_weights, value)
    attn_output = transpose(attn_output, 1, 2)
    return attn_output, attn_weights
