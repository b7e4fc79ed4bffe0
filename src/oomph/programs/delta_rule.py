"""The gated delta rule in chunks and token by token, as transformers runs it without flash-linear-attention,
or with it.

Shape letters: B batch, S sequence, K key heads, V value heads, N chunks of C positions, D key head dim, E value head
dim. All is computed in fp32: for each layer some thirty tensors as large as all queries, and scores [B, V, N, C, C].
Source: transformers 5.23, models/qwen3_next/modeling_qwen3_next.py, the functions named; those of Qwen3.5 and
OLMo-Hybrid are the same.
"""

from __future__ import annotations

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.tape.sizes import Size, number, yes
from oomph.tape.sym import Sym

CHUNK_SIZE = 64  # the functions' default
WIDEST = 256  # head dim of keys that flash-linear-attention takes
MOST_CHUNKS = 256  # each is played on its own: in all layers so many take some seconds
EPSILON = 1e-6


def l2norm(x: Sym) -> Sym:
    """Mirror l2norm: vectors of the last axis made of length 1."""
    inv_norm = ops.rsqrt(ops.sum_over(x * x, -1, keepdim=True) + EPSILON)
    return x * inv_norm


def has_package(key: Sym) -> bool:
    """Tell whether flash-linear-attention is played; raises UnsupportedError for heads that it refuses."""
    if "fla" not in key.tape.mixers:
        return False
    if not yes(key.shape[-1] <= WIDEST):
        raise UnsupportedError(
            f"flash-linear-attention takes keys of up to {WIDEST} places in chunks.", "Leave fla out of --mixers."
        )
    return True


def chunk_gated_delta_rule(
    query: Sym,
    key: Sym,
    value: Sym,
    g: Sym,
    beta: Sym,
    initial_state: Sym | None,
    output_final_state: bool,
) -> tuple[Sym, Sym | None]:
    """Mirror torch_chunk_gated_delta_rule with use_qk_l2norm_in_kernel.

    query, key [B, S, K, D], value [B, S, V, E], g and beta [B, S, V]; returns [B, S, V, E] and, if asked for, the last
    state [B, V, D, E] in fp32.
    """
    if has_package(key):
        lengths = query.tape.cu_seq_lens
        return ops.fla_gated_delta_rule(query, key, value, g, beta, initial_state, output_final_state, lengths)
    initial_dtype = query.dtype
    batch_size, sequence_length, num_k_heads, k_head_dim = key.shape
    num_v_heads, v_head_dim = value.shape[-2:]
    decay = g
    if not yes(num_k_heads == num_v_heads):
        query = ops.repeat_each(query, 2, num_v_heads // num_k_heads)
        key = ops.repeat_each(key, 2, num_v_heads // num_k_heads)
    query, key, value, beta, decay = [
        ops.cast_in_order(ops.transpose(x, 1, 2), "fp32") for x in (query, key, value, beta, decay)
    ]
    query = l2norm(query)
    key = l2norm(key)
    query = query * 1.0

    num_chunks = chunks(sequence_length)
    pad_size = num_chunks * CHUNK_SIZE - sequence_length
    query, key, value = (ops.pad_axis(x, 2, 0, pad_size) for x in (query, key, value))
    beta, decay = (ops.pad_axis(x, 2, 0, pad_size) for x in (beta, decay))
    v_beta = value * ops.unsqueeze(beta, 3)
    k_beta = key * ops.unsqueeze(beta, 3)
    query, key, k_beta, v_beta = [
        ops.view(x, (*x.shape[:2], num_chunks, CHUNK_SIZE, x.shape[-1])) for x in (query, key, k_beta, v_beta)
    ]
    decay = ops.view(decay, (*decay.shape[:2], num_chunks, CHUNK_SIZE))
    strictly_upper_mask = ops.strict_triangle(query.tape, CHUNK_SIZE)
    cum_decay = ops.cumsum(decay, 3)

    pairwise_decay = ops.unsqueeze(cum_decay, 4) - ops.unsqueeze(cum_decay, 3)
    pairwise_decay = ops.masked_fill(pairwise_decay, strictly_upper_mask)
    pairwise_decay = ops.exp(pairwise_decay)
    ut_system = ops.matmul(k_beta, ops.transpose(key, -1, -2)) * pairwise_decay
    intra_chunk_attn = ops.matmul(query, ops.transpose(key, -1, -2)) * pairwise_decay
    decayed_k_beta = k_beta * ops.unsqueeze(ops.exp(cum_decay), 4)
    new_values = ops.solve_triangular(ut_system, v_beta)
    k_cumdecay = ops.solve_triangular(ut_system, decayed_k_beta)

    if initial_state is None:
        shape = (batch_size, num_v_heads, k_head_dim, v_head_dim)
        last_recurrent_state = query.tape.empty(shape, new_values.dtype, op="zeros")
    else:
        last_recurrent_state = ops.cast(initial_state, new_values.dtype)
    core_attn_out = ops.zeros_like(new_values)
    query = query * ops.unsqueeze(ops.exp(cum_decay), 4)
    key = key * ops.unsqueeze(ops.exp(ops.slice_axis(cum_decay, 3, CHUNK_SIZE - 1, CHUNK_SIZE) - cum_decay), 4)
    chunk_decay = ops.unsqueeze(ops.unsqueeze(ops.exp(ops.select(cum_decay, 3)), 3), 4)
    for _ in range(num_chunks):
        v_new = ops.select(new_values, 2) - ops.matmul(ops.select(k_cumdecay, 2), last_recurrent_state)
        inter_chunk_attn = ops.matmul(ops.select(query, 2), last_recurrent_state)
        core_attn_out = ops.copy_into_place(
            core_attn_out, 2, inter_chunk_attn + ops.matmul(ops.select(intra_chunk_attn, 2), v_new)
        )
        last_recurrent_state = last_recurrent_state * ops.select(chunk_decay, 2) + ops.matmul(
            ops.transpose(ops.select(key, 2), -1, -2), v_new
        )
    final_state = last_recurrent_state if output_final_state else None
    del last_recurrent_state
    core_attn_out = ops.view(core_attn_out, (batch_size, num_v_heads, num_chunks * CHUNK_SIZE, v_head_dim))
    core_attn_out = ops.part(core_attn_out, 0, sequence_length, axis=2)
    core_attn_out = ops.cast_in_order(ops.transpose(core_attn_out, 1, 2), initial_dtype)
    return core_attn_out, final_state


def chunks(length: Size) -> int:
    """Return how many chunks a sequence has; how many there are is part of what was played."""
    count = number((length + CHUNK_SIZE - 1) // CHUNK_SIZE)
    if not yes((length + CHUNK_SIZE - 1) // CHUNK_SIZE == count):
        raise AssertionError("a size is not its own number")
    if count > MOST_CHUNKS:
        raise UnsupportedError(
            f"oomph plays the delta rule of up to {MOST_CHUNKS * CHUNK_SIZE} tokens, not {number(length)}.",
            "Ask for shorter sequences, or trace the real code: oomph trace.",
        )
    return count


def recurrent_gated_delta_rule(
    query: Sym, key: Sym, value: Sym, g: Sym, beta: Sym, initial_state: Sym, output_final_state: bool
) -> tuple[Sym, Sym | None]:
    """Mirror torch_recurrent_gated_delta_rule with use_qk_l2norm_in_kernel for one token and a state to go on from."""
    if "fla" in query.tape.mixers:
        return ops.fla_gated_delta_step(query, key, value, g, beta, initial_state, output_final_state)
    initial_dtype = query.dtype
    num_k_heads, num_v_heads = key.shape[2], value.shape[2]
    decay = g
    if not yes(num_k_heads == num_v_heads):
        query = ops.repeat_each(query, 2, num_v_heads // num_k_heads)
        key = ops.repeat_each(key, 2, num_v_heads // num_k_heads)
    query, key, value, beta, decay = [
        ops.cast_in_order(ops.transpose(x, 1, 2), "fp32") for x in (query, key, value, beta, decay)
    ]
    query = l2norm(query)
    key = l2norm(key)
    query = query * 1.0
    last_recurrent_state = ops.cast(initial_state, value.dtype)
    core_attn_out = ops.zeros_like(value)
    q_t, k_t, v_t = ops.select(query, 2), ops.select(key, 2), ops.select(value, 2)
    decay_t = ops.unsqueeze(ops.unsqueeze(ops.exp(ops.select(decay, 2)), 2), 3)
    last_recurrent_state = last_recurrent_state * decay_t
    beta_t = ops.unsqueeze(ops.select(beta, 2), 2)
    kv_mem = ops.sum_over(last_recurrent_state * ops.unsqueeze(k_t, 3), -2)
    delta = (v_t - kv_mem) * beta_t
    last_recurrent_state = last_recurrent_state + ops.unsqueeze(k_t, 3) * ops.unsqueeze(delta, 2)
    core_attn_out = ops.copy_into_place(
        core_attn_out, 2, ops.sum_over(last_recurrent_state * ops.unsqueeze(q_t, 3), -2)
    )  # fmt: skip
    final_state = last_recurrent_state if output_final_state else None
    core_attn_out = ops.cast(ops.contiguous(ops.transpose(core_attn_out, 1, 2)), initial_dtype)
    return core_attn_out, final_state
