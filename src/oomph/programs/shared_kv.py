"""Attention whose keys and values later layers reuse, with its local variables: Gemma 4's and Gemma 3n's.

Shape letters: B batch, S sequence, N query heads, K key/value heads, D head dim. Source: transformers 5.23,
models/gemma4/modeling_gemma4.py, Gemma4TextAttention.forward, models/gemma3n/modeling_gemma3n.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.blocks.shared_kv import SharedKVAttention
from oomph.programs.cache import Cache
from oomph.tape.bound import Bound
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

SharedStates = dict["Size | None", "tuple[Sym, Sym]"]  # keys and values [B, K, S, D], by the window of their layers


def attention(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: tuple[Sym, Sym],
    attention_mask: Sym | None,
    shared_kv_states: SharedStates,
    past_key_values: Cache | None,
    index: int,
) -> tuple[Sym, Sym | None]:
    """Mirror Gemma4TextAttention.forward: the output [B, S, H] and the weights of the eager kernel."""
    batch, length = hidden_states.shape[:2]
    cos, sin = position_embeddings
    query_states = ops.view(m.q_proj(hidden_states), (batch, length, m.num_heads, m.head_dim))
    query_states = m.q_norm(query_states)
    query_states = turned(query_states, cos, sin)
    query_states = ops.transpose(query_states, 1, 2)
    if isinstance(m.block, SharedKVAttention):
        key_states, value_states = shared_kv_states[m.sliding_window]
    else:
        hidden_shape = (batch, length, m.num_kv_heads, m.head_dim)
        key_states = ops.view(m.k_proj(hidden_states), hidden_shape)
        if not m.values_last:
            value_states = ops.view(m.v_proj(hidden_states), hidden_shape) if "v_proj" in m.parts else key_states
        key_states = m.k_norm(key_states)
        key_states = turned(key_states, cos, sin)
        key_states = ops.transpose(key_states, 1, 2)
        if m.values_last:
            value_states = ops.view(m.v_proj(hidden_states), hidden_shape)
        value_states = m.v_norm(value_states)
        value_states = ops.transpose(value_states, 1, 2)
        if past_key_values is not None:
            key_states, value_states = past_key_values.update(key_states, value_states, index)
        if m.stores:
            shared_kv_states[m.sliding_window] = key_states, value_states
    attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
    attn_output = m.o_proj(attn_output)
    return attn_output, attn_weights


def turned(x: Sym, cos: Sym, sin: Sym) -> Sym:
    """Mirror Gemma 4's apply_rotary_pos_emb: x [B, S, N, D] turned by cos and sin [P, S, D]."""
    cos = ops.unsqueeze(cos, 2)
    sin = ops.unsqueeze(sin, 2)
    return (x * cos) + (ops.rotate_half(x) * sin)
