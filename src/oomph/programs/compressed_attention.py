"""DeepSeek-V4's attention with its local variables: a window of tokens, and entries that many tokens are folded into.

Shape letters: B batch, S queries, T entries, W windows of `rate` tokens, D head dim, N the indexer's heads. Source:
transformers 5.23, models/deepseek_v4/modeling_deepseek_v4.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.programs.layers import Tables
from oomph.tape.bound import Bound
from oomph.tape.sizes import Size, number, yes
from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.programs.cache import Cache

MAIN, COMPRESS = "main", "compress"  # the kinds of rotary embedding


def attention(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: dict[str, Tables],
    position_ids: Sym,
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    index: int,
) -> tuple[Sym, Sym | None]:
    """Mirror DeepseekV4Attention.forward: the output [B, S, H] and the weights; one tensor is keys and values."""
    input_shape = hidden_states.shape[:2]
    cos, sin = position_embeddings[MAIN if m.compressor is None else COMPRESS]
    q_residual = m.q_a_norm(m.q_a_proj(hidden_states))
    q = ops.transpose(ops.view(m.q_b_proj(q_residual), (*input_shape, m.num_heads, m.head_dim)), 1, 2)
    q = unweighted_norm(q)
    q = ops.apply_rotary_trailing(q, cos, sin)
    kv = ops.transpose(ops.view(m.kv_norm(m.kv_proj(hidden_states)), (*input_shape, 1, m.head_dim)), 1, 2)
    kv = ops.apply_rotary_trailing(kv, cos, sin)
    if past_key_values is not None:
        kv = past_key_values.update(kv, kv, index)[0]
    block_bias = None
    if m.compressor is not None:
        compressed_kv, block_bias = m.compressor(hidden_states, q_residual, position_ids, past_key_values, index)
        kv = ops.cat([kv, compressed_kv], 2)
    assert attention_mask is not None  # the eager kernel always has one
    if yes(kv.shape[2] > attention_mask.shape[-1]):
        if block_bias is not None:
            attention_mask = ops.cat([attention_mask, ops.cast(block_bias, attention_mask.dtype)], -1)
        else:
            attention_mask = ops.pad_last(attention_mask, kv.shape[2] - attention_mask.shape[-1])
    attn_output, attn_weights = ops.sink_attention(q, kv, kv, m.parts["sinks"], attention_mask, m.dropout)
    attn_output = ops.transpose(ops.apply_rotary_trailing(ops.transpose(attn_output, 1, 2), cos, -sin), 1, 2)
    grouped = ops.view(attn_output, (*input_shape, m.o_groups, m.num_heads * m.head_dim // m.o_groups))
    grouped = ops.view(m.o_a_proj(grouped), (*input_shape, m.o_groups * m.o_lora_rank))
    output = m.o_b_proj(grouped)
    return output, attn_weights


def unweighted_norm(x: Sym) -> Sym:
    """Mirror DeepseekV4UnweightedRMSNorm.forward."""
    return x * ops.cast(ops.rsqrt(ops.mean(ops.power(ops.cast(x, "fp32"))) + 1e-6), x.dtype)


def grouped_linear(m: Bound, x: Sym) -> Sym:
    """Mirror DeepseekV4GroupedLinear.forward: x [B, S, G, K] through a map for each group, [B, S, G, R]."""
    batch, length, groups, hidden_dim = x.shape
    rank = m.out_features // groups
    w = ops.transpose(ops.view(m.weight, (groups, rank, hidden_dim)), 1, 2)
    x = ops.transpose(ops.view(x, (batch * length, groups, hidden_dim)), 0, 1)
    y = ops.transpose(ops.bmm(ops.autocast_argument(x), ops.autocast_argument(w)), 0, 1)
    return ops.view(y, (batch, length, groups, rank))


def heavy_compressor(
    m: Bound, hidden_states: Sym, q_residual: Sym, position_ids: Sym, past_key_values: Any, index: int
) -> tuple[Sym, Sym | None]:
    """Mirror DeepseekV4HCACompressor.forward: entries [B, 1, T, D], and which of them a query does not see."""
    batch = hidden_states.shape[0]
    cache_layer = None if past_key_values is None else past_key_values.layers[index]
    kv = m.kv_proj(hidden_states)
    gate = m.gate_proj(hidden_states)
    chunk_kv, chunk_gate = _whole_windows(m, cache_layer, "compressor", kv, gate)
    if yes(chunk_kv.shape[1] > 0):
        n_windows = chunk_kv.shape[1] // m.rate
        chunk_kv = ops.view(chunk_kv, (batch, n_windows, m.rate, m.head_dim))
        chunk_gate = ops.view(chunk_gate, (batch, n_windows, m.rate, m.head_dim)) + m.parts["position_bias"]
        compressed = m.kv_norm(ops.sum_over(chunk_kv * ops.cast(ops.softmax_in_fp32(chunk_gate), chunk_kv.dtype), 2))
        positions = _positions(m, batch, n_windows)
        cos, sin = ops.half_tables(compressed, positions, m.rope_dim)
        compressed = ops.view(ops.apply_rotary_trailing(ops.unsqueeze(compressed, 1), cos, sin), compressed.shape)
    else:
        compressed = _no_entries(m, chunk_kv, batch)
    if cache_layer is not None:
        compressed = cache_layer.update_compressor_states("compressor", compressed)
    compressed_kv = ops.unsqueeze(compressed, 1)
    compressed_len = compressed_kv.shape[2]
    seq_len = position_ids.shape[1]
    if yes(seq_len == 1) or yes(compressed_len == 0):
        return compressed_kv, None
    tape = m.tape
    entry_indices = tape.empty((compressed_len,), "int64", op="arange")  # noqa: F841  these live to the end
    causal_threshold = _threshold(position_ids)  # noqa: F841
    block_bias = tape.empty((batch, 1, seq_len, compressed_len), compressed_kv.dtype, op="zeros")
    block_bias = ops.masked_fill(
        block_bias, tape.empty((position_ids.shape[0], 1, seq_len, compressed_len), "bool", op="ge")
    )
    return compressed_kv, block_bias


def sparse_compressor(
    m: Bound, hidden_states: Sym, q_residual: Sym, position_ids: Sym, past_key_values: Any, index: int
) -> tuple[Sym, Sym]:
    """Mirror DeepseekV4CSACompressor.forward: entries [B, 1, T, D], and which of them a query does not see."""
    batch, seq_len = hidden_states.shape[:2]
    cache_layer = None if past_key_values is None else past_key_values.layers[index]
    kv = m.kv_proj(hidden_states)
    gate = m.gate_proj(hidden_states)
    chunk_kv, chunk_gate = _whole_windows(m, cache_layer, "compressor", kv, gate)
    if yes(chunk_kv.shape[1] > 0):
        n_windows = chunk_kv.shape[1] // m.rate
        chunk_kv = ops.view(chunk_kv, (batch, n_windows, m.rate, 2 * m.head_dim))
        chunk_gate = ops.view(chunk_gate, (batch, n_windows, m.rate, 2 * m.head_dim)) + m.parts["position_bias"]
        new_kv, new_gate, _prior_kv, _prior_gate = _overlapping(m, cache_layer, "compressor", chunk_kv, chunk_gate)
        compressed = m.kv_norm(ops.sum_over(new_kv * ops.cast(ops.softmax_in_fp32(new_gate), new_kv.dtype), 2))
        positions = _positions(m, batch, n_windows)
        cos, sin = ops.half_tables(compressed, positions, m.rope_dim)
        compressed = ops.view(ops.apply_rotary_trailing(ops.unsqueeze(compressed, 1), cos, sin), compressed.shape)
    else:
        compressed = _no_entries(m, chunk_kv, batch)
    if cache_layer is not None:
        compressed = cache_layer.update_compressor_states("compressor", compressed)
    compressed_kv = ops.unsqueeze(compressed, 1)
    top_k_indices = m.indexer(hidden_states, q_residual, position_ids, past_key_values, index)
    compressed_len = compressed_kv.shape[2]
    tape, picked = m.tape, top_k_indices.shape
    valid = tape.empty(picked, "bool", op="ge")  # noqa: F841  these live to the end
    filled = tape.empty(picked, "int64", op="full_like")
    safe_indices = tape.empty(picked, "int64", op="where")  # noqa: F841
    del filled
    block_bias = tape.empty((batch, 1, seq_len, compressed_len + 1), compressed_kv.dtype, op="new_full")
    return compressed_kv, ops.slice_axis(block_bias, -1, 0, compressed_len)


def indexer(m: Bound, hidden_states: Sym, q_residual: Sym, position_ids: Sym, past_key_values: Any, index: int) -> Sym:
    """Mirror DeepseekV4Indexer.forward: which entries each query sees, int64 [B, S, k]; no gradient comes back."""
    batch, seq_len = hidden_states.shape[:2]
    cache_layer = None if past_key_values is None else past_key_values.layers[index]
    kv = m.kv_proj(hidden_states)
    gate = m.gate_proj(hidden_states)
    chunk_kv, chunk_gate = _whole_windows(m, cache_layer, "indexer", kv, gate)
    if yes(chunk_kv.shape[1] > 0):
        n_windows = chunk_kv.shape[1] // m.rate
        chunk_kv = ops.view(chunk_kv, (batch, n_windows, m.rate, 2 * m.head_dim))
        chunk_gate = ops.view(chunk_gate, (batch, n_windows, m.rate, 2 * m.head_dim)) + m.parts["position_bias"]
        new_kv, new_gate, _prior_kv, _prior_gate = _overlapping(m, cache_layer, "indexer", chunk_kv, chunk_gate)
        compressed = m.kv_norm(ops.sum_over(new_kv * ops.cast(ops.softmax_in_fp32(new_gate), new_kv.dtype), 2))
        positions = _positions(m, batch, n_windows)
        cos, sin = ops.half_tables(compressed, positions, m.rope_dim)
        compressed = ops.view(ops.apply_rotary_trailing(ops.unsqueeze(compressed, 1), cos, sin), compressed.shape)
    else:
        compressed = _no_entries(m, chunk_kv, batch)
    compressed_kv = compressed
    if cache_layer is not None:
        compressed_kv = cache_layer.update_compressor_states("indexer", compressed)
    cos_q, sin_q = ops.half_tables(hidden_states, position_ids, m.rope_dim)
    q = ops.transpose(ops.view(m.q_b_proj(q_residual), (batch, seq_len, m.num_heads, m.head_dim)), 1, 2)
    q = ops.transpose(ops.apply_rotary_trailing(q, cos_q, sin_q), 1, 2)
    index_scores = m.scorer(q, compressed_kv, hidden_states)
    compressed_len = compressed_kv.shape[1]
    top_k = m.top_k if yes(m.top_k < compressed_len) else compressed_len
    tape, (rows, _) = m.tape, position_ids.shape
    if yes(compressed_len > 0):
        causal_threshold = _threshold(position_ids)  # noqa: F841  these live to the end
        entry_indices = tape.empty((compressed_len,), "int64", op="arange")  # noqa: F841
        future_mask = tape.empty((rows, seq_len, compressed_len), "bool", op="ge")
        index_scores = ops.masked_fill(index_scores, future_mask)
        top_k_indices = ops.topk(index_scores, top_k)[1]
        invalid = tape.empty(top_k_indices.shape, "bool", op="ge")  # noqa: F841
        filled = tape.empty(top_k_indices.shape, "int64", op="full_like")
        picked = tape.empty(top_k_indices.shape, "int64", op="where")
        del filled
        return picked
    return ops.topk(index_scores, top_k)[1]


def scorer(m: Bound, q: Sym, compressed_kv: Sym, hidden_states: Sym) -> Sym:
    """Mirror DeepseekV4IndexerScorer.forward: q [B, S, N, D] with entries [B, T, D], fp32 [B, S, T]."""
    queries = ops.cast(q, "fp32")  # arguments of the product outlive their casts under autocast
    entries = ops.unsqueeze(ops.cast(ops.transpose(compressed_kv, 1, 2), "fp32"), 1)
    scores = ops.matmul(queries, entries)
    del queries, entries
    scores = ops.activate("relu", scores) * 1.0
    weights = ops.cast(m.weights_proj(hidden_states), "fp32") * 1.0
    return ops.sum_over(scores * ops.unsqueeze(weights, 3), 2)


def _whole_windows(m: Bound, cache_layer: Any, name: str, kv: Sym, gate: Sym) -> tuple[Sym, Sym]:
    """Return what of values and gates [B, S, W] makes whole windows, with what a cache kept before."""
    if cache_layer is not None:
        found: tuple[Sym, Sym] = cache_layer.store_compression_weights(name, kv, gate)
        return found
    usable = kv.shape[1] // m.rate * m.rate
    return ops.part(kv, 0, usable, 1), ops.part(gate, 0, usable, 1)


def _overlapping(
    m: Bound, cache_layer: Any, name: str, chunk_kv: Sym, chunk_gate: Sym
) -> tuple[Sym, Sym, Sym | None, Sym | None]:
    """Return values and gates [B, W, 2 rate, D]: of each window one half, of the window before the other."""
    (batch, n_windows, ratio, _), head_dim, tape = chunk_kv.shape, m.head_dim, m.tape
    new_kv = tape.empty((batch, n_windows, 2 * ratio, head_dim), chunk_kv.dtype, op="zeros")
    new_gate = tape.empty((batch, n_windows, 2 * ratio, head_dim), chunk_gate.dtype, op="new_full")
    new_kv = ops.copy_into_slice(new_kv, ops.part(chunk_kv, head_dim, 2 * head_dim))
    new_gate = ops.copy_into_slice(new_gate, ops.part(chunk_gate, head_dim, 2 * head_dim))
    if yes(n_windows > 1):
        new_kv = ops.copy_into_slice(new_kv, ops.part(ops.part(chunk_kv, 0, n_windows - 1, 1), 0, head_dim))
        new_gate = ops.copy_into_slice(new_gate, ops.part(ops.part(chunk_gate, 0, n_windows - 1, 1), 0, head_dim))
    prior_kv, prior_gate = None, None
    if cache_layer is not None:
        prior_kv, prior_gate = cache_layer.update_overlap_state(name, chunk_kv, chunk_gate, head_dim)
        if prior_kv is not None:
            new_kv = ops.copy_into_place(new_kv, 1, ops.cast(prior_kv, new_kv.dtype))
            new_gate = ops.copy_into_place(new_gate, 1, ops.cast(prior_gate, new_gate.dtype))
    return new_kv, new_gate, prior_kv, prior_gate


def _positions(m: Bound, batch: Size, n_windows: Size) -> Sym:
    """Return the positions of the first tokens of windows, int64 [B, W]."""
    positions = m.tape.empty((n_windows,), "int64", op="arange")
    positions = ops.unary(ops.unary(positions, "mul"), "add")
    return ops.expand(ops.unsqueeze(positions, 0), (batch, n_windows))


def _threshold(position_ids: Sym) -> Sym:
    """Return how many entries each query may see: (position_ids + 1) // rate."""
    return ops.unary(ops.unary(position_ids, "add"), "floor_divide")


def _no_entries(m: Bound, like_this: Sym, batch: Size) -> Sym:
    """Return no entry: fewer tokens than make one. Nothing of the compressor would get a gradient then."""
    if m.tape.grad_enabled and any(one.requires_grad for one in m.parameters()):
        raise UnsupportedError(
            f"oomph cannot train layers that fold {number(m.rate)} tokens into one on fewer of them yet.",
            f"Ask for at least {number(m.rate)} tokens: --seq.",
        )
    return m.tape.empty((batch, 0, m.head_dim), like_this.dtype, op="zeros")
