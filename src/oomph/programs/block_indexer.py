"""MiniMax-M3's indexer and the mask made of what it picks, with their local variables.

Shape letters: B batch, S queries, T keys, N the indexer's heads, D their size, Q heads that attend. Source:
transformers 5.23, models/minimax_m3_vl/modeling_minimax_m3_vl.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.tape.bound import Bound
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.programs.cache import Cache


def attention(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: tuple[Sym, Sym, Sym],
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    index: int,
) -> tuple[Sym, Sym | None]:
    """Mirror MiniMaxM3VLAttention.forward of a layer with an indexer; position ids come with the tables."""
    input_shape = hidden_states.shape[:2]
    query_states = ops.view(m.q_proj(hidden_states), (*input_shape, m.num_heads, m.head_dim))
    query_states = ops.transpose(m.q_norm(query_states), 1, 2)
    key_states = ops.view(m.k_proj(hidden_states), (*input_shape, m.num_kv_heads, m.head_dim))
    key_states = ops.transpose(m.k_norm(key_states), 1, 2)
    value_states = ops.view(m.v_proj(hidden_states), (*input_shape, m.num_kv_heads, m.head_dim))
    value_states = ops.transpose(value_states, 1, 2)
    cos, sin, position_ids = position_embeddings
    query_states, key_states = ops.rotate(m.rotary, query_states, key_states, cos, sin)
    if past_key_values is not None:
        key_states, value_states = past_key_values.update(key_states, value_states, index)
    position_ids = ops.expand(position_ids, input_shape)
    block_indices = m.indexer(hidden_states, (cos, sin), past_key_values, position_ids, index)
    attention_mask = block_mask(m, block_indices, attention_mask, key_states.shape[2], query_states.dtype, position_ids)
    attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
    attn_output = ops.contiguous(ops.view(attn_output, (*input_shape, m.num_heads * m.head_dim)))
    return m.o_proj(attn_output), attn_weights


def indexer(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: tuple[Sym, Sym],
    past_key_values: Any,
    position_ids: Sym,
    index: int,
) -> Sym:
    """Mirror MiniMaxM3VLIndexer.forward: the blocks each query sees, int64 [B, N, S, k]; no gradient comes back."""
    batch, q_len = hidden_states.shape[:2]
    tape = m.tape
    idx_q = ops.view(m.q_proj(hidden_states), (batch, q_len, m.num_heads, m.head_dim))
    idx_q = ops.transpose(m.q_norm(idx_q), 1, 2)
    idx_k = ops.view(m.k_proj(hidden_states), (batch, q_len, 1, m.head_dim))
    idx_k = ops.transpose(m.k_norm(idx_k), 1, 2)
    cos, sin = position_embeddings
    width = m.head_dim if yes(m.head_dim < cos.shape[-1]) else cos.shape[-1]
    idx_q, idx_k = ops.rotate("partial", idx_q, idx_k, ops.part(cos, 0, width), ops.part(sin, 0, width))
    if past_key_values is not None:
        idx_k = past_key_values.layers[index].update_index(idx_k)
    k_len = idx_k.shape[2]
    num_key_blocks = -(-k_len // m.block_size)
    pad = num_key_blocks * m.block_size - k_len
    queries = ops.cast(idx_q, "fp32")  # arguments of the product outlive their casts under autocast
    keys = ops.transpose(ops.cast(idx_k, "fp32"), 2, 3)
    scores = ops.matmul(queries, keys)
    del queries, keys
    k_positions = tape.empty((k_len,), "int64", op="arange")  # noqa: F841  these live to the end
    token_future = tape.empty((batch, 1, q_len, k_len), "bool", op="gt")
    scores = ops.masked_fill(scores, token_future)
    if yes(pad > 0):
        scores = ops.pad_last(scores, pad)
    scores = ops.view(scores, (batch, m.num_heads, q_len, num_key_blocks, m.block_size))
    block_scores = ops.amax(scores)
    q_block = tape.empty((batch, q_len), "int64", op="floor_divide")  # noqa: F841
    if yes(m.local_blocks > 0):
        local = tape.empty((m.local_blocks,), "int64", op="arange")  # noqa: F841
        local_idx = ops.unary(tape.empty((batch, q_len, m.local_blocks), "int64", op="sub"), "clamp")  # noqa: F841
    topk = m.top_k if yes(m.top_k < num_key_blocks) else num_key_blocks
    topk_scores, topk_indices = ops.topk(block_scores, topk)
    unseen = tape.empty(topk_scores.shape, "bool", op="eq")
    picked = tape.empty(topk_indices.shape, "int64", op="masked_fill")
    del unseen
    return picked


def block_mask(
    m: Bound, block_indices: Sym, attention_mask: Sym | None, key_length: Size, dtype: str, position_ids: Sym
) -> Sym:
    """Mirror MiniMaxM3VLIndexer.build_block_mask: numbers to add to scores, [B, Q, S, T]."""
    tape, (batch, heads, q_len, _) = m.tape, block_indices.shape
    size = m.indexer.block_size
    num_key_blocks = -(-key_length // size)
    missing = tape.empty(block_indices.shape, "bool", op="lt")
    safe = tape.empty(block_indices.shape, "int64", op="masked_fill")  # noqa: F841  these live to the end
    del missing
    bias = tape.empty((batch, heads, q_len, num_key_blocks + 1), dtype, op="new_full")
    bias = ops.slice_axis(bias, -1, 0, num_key_blocks)
    block_keep = ops.part(
        ops.repeat_each(tape.empty((batch, heads, q_len, num_key_blocks), "bool", op="eq"), 3, size), 0, key_length
    )
    block_keep = ops.repeat_each(block_keep, 1, m.num_heads // heads)
    shape = (batch, m.num_heads, q_len, key_length)
    if attention_mask is not None:
        padding_mask = (  # noqa: F841
            attention_mask if attention_mask.dtype == "bool" else tape.empty(attention_mask.shape, "bool", op="eq")
        )
        keep = tape.empty(shape, "bool", op="bitwise_and")
    else:
        k_positions = tape.empty((key_length,), "int64", op="arange")  # noqa: F841
        token_future = tape.empty((batch, 1, q_len, key_length), "bool", op="gt")
        past = ops.unary(token_future, "bitwise_not")
        keep = tape.empty(shape, "bool", op="bitwise_and")
        del past
    zeros = tape.empty(shape, dtype, op="zeros")
    hidden = ops.unary(keep, "bitwise_not")
    filled = tape.empty(shape, dtype, op="masked_fill")
    del zeros, hidden
    return filled
