"""Attention whose output passes a gate of a map of its own, with its local variables: one function per family's form.

Shape letters: B batch, S sequence, N query heads, K key/value heads, D head dim. Source: transformers 5.23,
models/<type>/modeling_<type>.py, FooAttention.forward.
"""

from __future__ import annotations

from collections.abc import Callable

from oomph import ops
from oomph.programs.cache import Cache
from oomph.programs.layers import Tables
from oomph.tape.bound import Bound
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym


def laguna(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: Tables,
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    index: int,
) -> tuple[Sym, Sym | None]:
    """Mirror LagunaAttention.forward: a softplus gate, made last, in fp32; per head or per channel of each."""
    input_shape = hidden_states.shape[:2]
    query_states = ops.view(m.q_proj(hidden_states), (*input_shape, m.num_heads, m.head_dim))
    key_states = ops.view(m.k_proj(hidden_states), (*input_shape, m.num_kv_heads, m.head_dim))
    value_states = ops.view(m.v_proj(hidden_states), (*input_shape, m.num_kv_heads, m.head_dim))
    query_states = ops.transpose(m.q_norm(query_states), 1, 2)
    key_states = ops.transpose(m.k_norm(key_states), 1, 2)
    value_states = ops.transpose(value_states, 1, 2)
    cos, sin = position_embeddings
    query_states, key_states = ops.rotate(m.rotary, query_states, key_states, cos, sin)
    if past_key_values is not None:
        key_states, value_states = past_key_values.update(key_states, value_states, index)
    attn_output, attn_weights = _attended(m, query_states, key_states, value_states, attention_mask)
    attn_output = ops.contiguous(ops.view(attn_output, (*input_shape, m.num_heads * m.head_dim)))
    gate = ops.cast(ops.softplus(ops.cast(m[m.gate](hidden_states), "fp32")), attn_output.dtype)
    if yes(m.gate_size == m.num_heads):
        attn_output = ops.view(
            ops.view(attn_output, (*input_shape, m.num_heads, m.head_dim)) * ops.unsqueeze(gate, 3), attn_output.shape
        )
    else:
        attn_output = attn_output * gate
    attn_output = m.o_proj(attn_output)
    return attn_output, attn_weights


def step3p5(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: Tables,
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    index: int,
) -> tuple[Sym, Sym | None]:
    """Mirror Step3p7Attention.forward: a sigmoid gate for each head, whose logits come before the rotation."""
    input_shape = hidden_states.shape[:2]
    query_states = ops.view(m.q_proj(hidden_states), (*input_shape, m.num_heads, m.head_dim))
    query_states = ops.transpose(m.q_norm(query_states), 1, 2)
    key_states = ops.view(m.k_proj(hidden_states), (*input_shape, m.num_kv_heads, m.head_dim))
    key_states = ops.transpose(m.k_norm(key_states), 1, 2)
    value_states = ops.view(m.v_proj(hidden_states), (*input_shape, m.num_kv_heads, m.head_dim))
    value_states = ops.transpose(value_states, 1, 2)
    gate_states = m[m.gate](hidden_states)
    cos, sin = position_embeddings
    query_states, key_states = ops.rotate(m.rotary, query_states, key_states, cos, sin)
    if past_key_values is not None:
        key_states, value_states = past_key_values.update(key_states, value_states, index)
    attn_output, attn_weights = _attended(m, query_states, key_states, value_states, attention_mask)
    attn_output = ops.view(attn_output, (*input_shape, m.num_heads * m.head_dim))
    attn_output = ops.view(attn_output, (*input_shape, m.num_heads, m.head_dim))
    attn_output = attn_output * ops.sigmoid(ops.unsqueeze(gate_states, 3))
    attn_output = ops.view(attn_output, (*input_shape, m.num_heads * m.head_dim))
    attn_output = m.o_proj(attn_output)
    return attn_output, attn_weights


def afmoe(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: Tables,
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    index: int,
) -> tuple[Sym, Sym | None]:
    """Mirror AfmoeAttention.forward: a sigmoid gate for each channel, whose logits come before the norms."""
    input_shape = hidden_states.shape[:2]
    query_states = ops.view(m.q_proj(hidden_states), (*input_shape, m.num_heads, m.head_dim))
    key_states = ops.view(m.k_proj(hidden_states), (*input_shape, m.num_kv_heads, m.head_dim))
    value_states = ops.view(m.v_proj(hidden_states), (*input_shape, m.num_kv_heads, m.head_dim))
    gate_states = m[m.gate](hidden_states)
    query_states = ops.transpose(m.q_norm(query_states), 1, 2)
    key_states = ops.transpose(m.k_norm(key_states), 1, 2)
    value_states = ops.transpose(value_states, 1, 2)
    if m.rotary:
        cos, sin = position_embeddings
        query_states, key_states = ops.rotate(m.rotary, query_states, key_states, cos, sin)
    if past_key_values is not None:
        key_states, value_states = past_key_values.update(key_states, value_states, index)
    output, attn_weights = _attended(m, query_states, key_states, value_states, attention_mask)
    output = ops.contiguous(ops.view(output, (*input_shape, m.num_heads * m.head_dim)))
    output = output * ops.sigmoid(gate_states)
    attn_output = m.o_proj(output)
    return attn_output, attn_weights


def _attended(m: Bound, query: Sym, key: Sym, value: Sym, mask: Sym | None) -> tuple[Sym, Sym | None]:
    """Run the job's kernel as all of these classes call it."""
    return ops.attention(query, key, value, mask, m.dropout, window=m.sliding_window)


STYLES: dict[str, Callable[..., tuple[Sym, Sym | None]]] = {"afmoe": afmoe, "laguna": laguna, "step3p5": step3p5}
