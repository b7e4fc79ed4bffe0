"""Kimi's delta rule in chunks and token by token, as transformers runs it without flash-linear-attention, or
with it.

Its decay is a vector for each head, so that chunks are compared channel by channel: several fp32 tensors of
[B, N, S / 64, 64, 64, D] in each layer. Shape letters: B batch, S sequence, N heads of D. Source: transformers 5.23,
models/kimi_linear/modeling_kimi_linear.py, the functions named.
"""

from __future__ import annotations

from oomph import ops
from oomph.programs.delta_rule import CHUNK_SIZE, EPSILON, chunks, has_package
from oomph.tape.sym import Sym


def l2norm(x: Sym) -> Sym:
    """Mirror l2norm: vectors of the last axis made of length 1, by a root and a division."""
    inv_norm = ops.root(ops.sum_over(x * x, -1, keepdim=True) + EPSILON)
    return ops.divide(x, inv_norm)


def chunk_kimi_delta_attention(
    query: Sym, key: Sym, value: Sym, g: Sym, beta: Sym, initial_state: Sym | None, output_final_state: bool
) -> tuple[Sym, Sym | None]:
    """Mirror chunk_kimi_delta_attention with use_qk_l2norm_in_kernel.

    query, key, value and g [B, S, N, D], beta [B, S, N]; returns [B, S, N, D] and, if asked for, the last state
    [B, N, D, D] in fp32.
    """
    if has_package(key):
        return ops.fla_kimi_delta_rule(query, key, value, g, beta, initial_state, output_final_state)
    initial_dtype = query.dtype
    query, key, value, beta, g = [
        ops.cast(ops.contiguous(ops.transpose(x, 1, 2)), "fp32") for x in (query, key, value, beta, g)
    ]
    query = l2norm(query)
    key = l2norm(key)
    batch_size, num_heads, sequence_length, head_dim = key.shape
    num_chunks = chunks(sequence_length)
    pad_size = num_chunks * CHUNK_SIZE - sequence_length
    query = ops.pad_axis(query, 2, 0, pad_size) * 1.0
    key = ops.pad_axis(key, 2, 0, pad_size)
    value = ops.pad_axis(value, 2, 0, pad_size)
    g = ops.pad_axis(g, 2, 0, pad_size)
    beta = ops.pad_axis(beta, 2, 0, pad_size)
    v_beta = value * ops.unsqueeze(beta, 3)
    k_beta = key * ops.unsqueeze(beta, 3)
    query, key, value, g, k_beta, v_beta = [
        ops.view(x, (*x.shape[:2], num_chunks, CHUNK_SIZE, x.shape[-1])) for x in (query, key, value, g, k_beta, v_beta)
    ]
    beta = ops.view(beta, (*beta.shape[:2], num_chunks, CHUNK_SIZE))
    g = ops.cumsum(g, 3)
    mask = ops.strict_triangle(query.tape, CHUNK_SIZE)
    strict_mask = ops.strict_triangle(query.tape, CHUNK_SIZE)
    decay_mask = ops.exp(ops.masked_fill(ops.unsqueeze(g, 4) - ops.unsqueeze(g, 3), ops.unsqueeze(strict_mask, 2)))
    attn = -ops.masked_fill(ops.sum_over(ops.unsqueeze(k_beta, 4) * ops.unsqueeze(key, 3) * decay_mask, -1), mask)
    for i in range(1, CHUNK_SIZE):
        row = ops.clone(_row(attn, i))
        sub = ops.clone(ops.part(ops.part(attn, 0, i, 3), 0, i, 4))
        attn = ops.copy_into_place(attn, 3, row + ops.sum_over(ops.unsqueeze(row, 4) * sub, -2))
    attn = attn + query.tape.empty((CHUNK_SIZE, CHUNK_SIZE), attn.dtype, op="eye")
    value = ops.matmul(attn, v_beta)
    k_cumdecay = ops.matmul(attn, k_beta * ops.exp(g))
    if initial_state is None:
        last_recurrent_state = query.tape.empty((batch_size, num_heads, head_dim, head_dim), value.dtype, op="zeros")
    else:
        last_recurrent_state = ops.cast(initial_state, value.dtype)
    core_attn_out = ops.zeros_like(value)
    mask = ops.strict_triangle(query.tape, CHUNK_SIZE)
    for _ in range(num_chunks):
        q_i = ops.select(query, 2)
        k_i = ops.select(key, 2)
        v_i = ops.select(value, 2)
        g_i = ops.select(g, 2)
        attn_inter = ops.matmul(q_i * ops.exp(g_i), last_recurrent_state)
        attn_intra = ops.masked_fill(
            ops.sum_over(ops.unsqueeze(q_i, 3) * ops.unsqueeze(k_i, 2) * ops.select(decay_mask, 2), -1), mask
        )
        v_prime = ops.matmul(ops.select(k_cumdecay, 2), last_recurrent_state)
        v_new = v_i - v_prime
        core_attn_out = ops.copy_into_place(core_attn_out, 2, attn_inter + ops.matmul(attn_intra, v_new))
        last_recurrent_state = last_recurrent_state * ops.unsqueeze(ops.exp(ops.select(g_i, 2)), 3) + ops.matmul(
            ops.transpose(k_i * ops.exp(ops.slice_axis(g_i, 2, CHUNK_SIZE - 1, CHUNK_SIZE) - g_i), -1, -2), v_new
        )
    final_state = last_recurrent_state if output_final_state else None
    del last_recurrent_state
    core_attn_out = ops.view(core_attn_out, (batch_size, num_heads, num_chunks * CHUNK_SIZE, head_dim))
    core_attn_out = ops.part(core_attn_out, 0, sequence_length, axis=2)
    core_attn_out = ops.cast(ops.contiguous(ops.transpose(core_attn_out, 1, 2)), initial_dtype)
    return core_attn_out, final_state


def _row(attn: Sym, length: int) -> Sym:
    """Return attn[..., i, :i], a view."""
    return ops.part(ops.select(attn, 3), 0, length, 3)


def recurrent_kimi_delta_attention(
    query: Sym, key: Sym, value: Sym, g: Sym, beta: Sym, initial_state: Sym, output_final_state: bool
) -> tuple[Sym, Sym | None]:
    """Mirror recurrent_kimi_delta_attention with use_qk_l2norm_in_kernel for one token and a state to go on from."""
    if "fla" in query.tape.mixers:
        return ops.fla_kimi_delta_step(query, key, value, g, beta, initial_state, output_final_state)
    initial_dtype = query.dtype
    query, key, value, g, beta = [ops.cast(x, "fp32") for x in (query, key, value, g, beta)]
    query = l2norm(query)
    key = l2norm(key)
    query = query * 1.0
    core_attn_out = value.tape.empty(value.shape, value.dtype, op="zeros")
    last_recurrent_state = ops.cast(initial_state, value.dtype)
    q_i, k_i, v_i = (ops.select(x, 1) for x in (query, key, value))
    g_i = ops.exp(ops.unsqueeze(ops.select(g, 1), 3))
    b_i = ops.unsqueeze(ops.select(beta, 1), 2)
    last_recurrent_state = last_recurrent_state * g_i
    kv_mem = ops.sum_over(last_recurrent_state * ops.unsqueeze(k_i, 3), -2)
    delta = (v_i - kv_mem) * b_i
    last_recurrent_state = last_recurrent_state + ops.unsqueeze(k_i, 3) * ops.unsqueeze(delta, 2)
    core_attn_out = ops.copy_into_place(
        core_attn_out, 1, ops.sum_over(last_recurrent_state * ops.unsqueeze(q_i, 3), -2)
    )  # fmt: skip
    final_state = last_recurrent_state if output_final_state else None
    return ops.cast(core_attn_out, initial_dtype), final_state
