"""CodeGenForCausalLM.forward with its local variables: GPT-J's, with one map, in four parts.

Tables of sines stay in fp32, and so do the queries and keys that they turn. Source: transformers 5.23,
models/codegen/modeling_codegen.py.
"""

from __future__ import annotations

from functools import partial

from oomph import ops
from oomph.programs import gptj
from oomph.programs.cache import Cache
from oomph.programs.frame import language_model
from oomph.programs.gptj import buffers, sliding_windows, turned
from oomph.tape.bound import Bound
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "sliding_windows"]
PARTS = 4  # the map's rows lie as they did on four TPUs


def heads(m: Bound, states: Sym) -> Sym:
    """Mirror CodeGenAttention._split_heads: [B, S, 4, N / 4 * D] to [B, S, N, D]."""
    batch, length = states.shape[:2]
    reshaped = ops.view(states, (batch, length, PARTS, m.num_heads // PARTS, m.head_dim))
    reshaped = ops.view(reshaped, (batch, length, m.num_heads, m.head_dim))
    return reshaped


def attention(
    m: Bound,
    hidden_states: Sym,
    layer_past: Cache | None,
    attention_mask: Sym | None,
    position_ids: Sym,
    table: Bound,
    index: int,
) -> tuple[Sym, Sym]:
    """Mirror CodeGenAttention.forward."""
    batch, length, hidden = hidden_states.shape
    rotary, size, tape = m.rotary_dim, m.head_dim, m.tape
    qkv = m.qkv_proj(hidden_states)
    local_dim = hidden // PARTS
    qkv_split = ops.view(qkv, (batch, length, PARTS, 3 * local_dim))
    query, value, key = ops.split(qkv_split, local_dim, 3)
    query = heads(m, query)
    key = heads(m, key)
    value = heads(m, value)
    value = ops.transpose(value, 1, 2)
    sincos = tape.empty((*position_ids.shape, table.shape[1]), "fp32", op="index")
    sin, cos = ops.split(sincos, table.shape[1] // 2, 2)
    k_rot = ops.part(key, 0, rotary)
    k_pass = ops.slice_axis(key, -1, rotary, size)
    q_rot = ops.part(query, 0, rotary)
    q_pass = ops.slice_axis(query, -1, rotary, size)
    k_rot = turned(m, k_rot, sin, cos)
    q_rot = turned(m, q_rot, sin, cos)
    key = ops.cat((k_rot, k_pass), -1)
    query = ops.cat((q_rot, q_pass), -1)
    key = ops.transpose(key, 1, 2)
    query = ops.transpose(query, 1, 2)
    if layer_past is not None:
        key, value = layer_past.update(ops.cast(key, hidden_states.dtype), value, index)
    attn_output, attn_weights = scored(m, query, key, value, attention_mask)
    attn_output = ops.contiguous(ops.transpose(attn_output, 1, 2))
    attn_output = ops.view(attn_output, (batch, length, hidden))
    attn_output = m.out_proj(attn_output)
    attn_output = m.resid_dropout(attn_output)
    return attn_output, attn_weights


def scored(m: Bound, query: Sym, key: Sym, value: Sym, attention_mask: Sym | None) -> tuple[Sym, Sym]:
    """Mirror CodeGenAttention._attn: [B, N, S, D] of scores in fp32."""
    query = ops.cast(query, "fp32")
    key = ops.cast(key, "fp32")
    attn_weights = ops.matmul(query, ops.transpose(key, -1, -2))
    if attention_mask is not None:
        attn_weights = attn_weights + attention_mask
    attn_weights = attn_weights / 1.0
    attn_weights = ops.softmax(attn_weights)
    attn_weights = ops.cast(attn_weights, value.dtype)
    attn_weights = ops.dropout(attn_weights, m.dropout)
    attn_output = ops.matmul(attn_weights, value)
    return attn_output, attn_weights


block = partial(gptj.block, attend=attention)
causal_lm = language_model(partial(gptj.model, block=block), "transformer", "wte")
