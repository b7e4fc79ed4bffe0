"""Gated delta nets with their local variables: maps, a convolution over q, k and v, the delta rule, a gated norm.

Shape letters: B batch, S sequence, H hidden, K key heads, V value heads, D key head dim, E value head dim. Source:
transformers 5.23, the classes named.
"""

from __future__ import annotations

from oomph import ops
from oomph.programs.cache import Cache
from oomph.programs.causal_conv import causal_conv1d_fn, causal_conv1d_update, last_tokens, masked, squeezed
from oomph.programs.delta_rule import chunk_gated_delta_rule, recurrent_gated_delta_rule
from oomph.tape.bound import Bound
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym

EPSILON = 1e-6


def qwen3_next(
    m: Bound, hidden_states: Sym, cache_params: Cache | None, attention_mask: Sym | None, index: int
) -> Sym:  # fmt: skip
    """Mirror Qwen3NextGatedDeltaNet.forward: two maps, whose results are put in order."""
    hidden_states = masked(hidden_states, attention_mask)
    seq_len = hidden_states.shape[1]
    if cache_params is not None:
        conv_state = cache_params.conv_state(index)
        recurrent_state = cache_params.recurrent_state(index)
    else:
        conv_state, recurrent_state = None, None

    projected_states_qkvz = m.in_proj_qkvz(hidden_states)
    projected_states_ba = m.in_proj_ba(hidden_states)
    query, key, value, z, b, a = _ordered(m, projected_states_qkvz, projected_states_ba)
    query, key, value = (ops.view(x, (*x.shape[:2], x.shape[2] * x.shape[3])) for x in (query, key, value))
    mixed_qkv = ops.cat((query, key, value), 2)
    mixed_qkv = ops.transpose(mixed_qkv, 1, 2)
    if conv_state is not None and yes(seq_len == 1):
        mixed_qkv = causal_conv1d_update(mixed_qkv, conv_state, squeezed(m.conv1d), None, m.activation)
    else:
        if cache_params is not None:
            mixed_qkv = cache_params.update_conv_state(mixed_qkv, index, m.conv_kernel)
        mixed_qkv = causal_conv1d_fn(mixed_qkv, squeezed(m.conv1d), None, m.activation)
        if cache_params is not None:
            mixed_qkv = last_tokens(mixed_qkv, seq_len)
    mixed_qkv = ops.transpose(mixed_qkv, 1, 2)
    query, key, value = ops.split_sizes(mixed_qkv, (m.key_size, m.key_size, m.value_size))
    query = ops.view(query, (*query.shape[:2], m.num_key_heads, m.key_head_dim))
    key = ops.view(key, (*key.shape[:2], m.num_key_heads, m.key_head_dim))
    value = ops.view(value, (*value.shape[:2], m.num_value_heads, m.value_head_dim))

    beta = ops.sigmoid(b)
    g = -ops.exp(ops.cast(m.value("A_log"), "fp32")) * ops.softplus(ops.cast(a, "fp32") + m.value("dt_bias"))
    if recurrent_state is not None and yes(seq_len == 1):
        core_attn_out, last_recurrent_state = recurrent_gated_delta_rule(
            query, key, value, g, beta, recurrent_state, output_final_state=cache_params is not None
        )
    else:
        core_attn_out, last_recurrent_state = chunk_gated_delta_rule(
            query, key, value, g, beta, recurrent_state, output_final_state=cache_params is not None
        )
    if cache_params is not None and last_recurrent_state is not None:
        cache_params.update_recurrent_state(last_recurrent_state, index)

    z_shape_og = z.shape
    core_attn_out = ops.view(core_attn_out, (ops.rows(core_attn_out), core_attn_out.shape[-1]))
    z = ops.view(z, (ops.rows(z), z.shape[-1]))
    core_attn_out = m.norm(core_attn_out, z)
    core_attn_out = ops.view(core_attn_out, z_shape_og)
    core_attn_out = ops.view(core_attn_out, (*core_attn_out.shape[:2], m.value_size))
    output: Sym = m[m.out](core_attn_out)
    return output


def _ordered(m: Bound, mixed_qkvz: Sym, mixed_ba: Sym) -> tuple[Sym, Sym, Sym, Sym, Sym, Sym]:
    """Mirror fix_query_key_value_ordering: each key head comes with its value heads, [B, S, K, ..] to [B, S, V, ..]."""
    batch, length, keys = (*mixed_qkvz.shape[:2], m.num_key_heads)
    each = m.num_value_heads // keys
    mixed_qkvz = ops.view(
        mixed_qkvz, (batch, length, keys, 2 * m.key_head_dim + 2 * m.value_head_dim * m.num_value_heads // keys)
    )
    mixed_ba = ops.view(mixed_ba, (batch, length, keys, 2 * m.num_value_heads // keys))
    values = each * m.value_head_dim
    query, key, value, z = ops.split_sizes(mixed_qkvz, (m.key_head_dim, m.key_head_dim, values, values))
    b, a = ops.split_sizes(mixed_ba, (each, each))
    value = ops.view(value, (batch, length, m.num_value_heads, m.value_head_dim))
    z = ops.view(z, (batch, length, m.num_value_heads, m.value_head_dim))
    b = ops.view(b, (batch, length, m.num_value_heads))
    a = ops.view(a, (batch, length, m.num_value_heads))
    return query, key, value, z, b, a


def qwen3_5(
    m: Bound, hidden_states: Sym, cache_params: Cache | None, attention_mask: Sym | None, index: int
) -> Sym:  # fmt: skip
    """Mirror Qwen3_5GatedDeltaNet.forward: four maps."""
    hidden_states = masked(hidden_states, attention_mask)
    batch_size, seq_len, _ = hidden_states.shape
    if cache_params is not None:
        conv_state = cache_params.conv_state(index)
        recurrent_state = cache_params.recurrent_state(index)
    else:
        conv_state, recurrent_state = None, None

    mixed_qkv = m.in_proj_qkv(hidden_states)
    mixed_qkv = ops.transpose(mixed_qkv, 1, 2)
    z = m.in_proj_z(hidden_states)
    z = ops.view(z, (batch_size, seq_len, m.num_value_heads, m.value_head_dim))
    b = m.in_proj_b(hidden_states)
    a = m.in_proj_a(hidden_states)
    if conv_state is not None and yes(seq_len == 1):
        mixed_qkv = causal_conv1d_update(mixed_qkv, conv_state, squeezed(m.conv1d), None, m.activation)
    else:
        if cache_params is not None:
            mixed_qkv = cache_params.update_conv_state(mixed_qkv, index, m.conv_kernel)
        mixed_qkv = causal_conv1d_fn(mixed_qkv, squeezed(m.conv1d), None, m.activation)
        if cache_params is not None:
            mixed_qkv = last_tokens(mixed_qkv, seq_len)
    mixed_qkv = ops.transpose(mixed_qkv, 1, 2)
    query, key, value = ops.split_sizes(mixed_qkv, (m.key_size, m.key_size, m.value_size))
    query = ops.view(query, (batch_size, seq_len, m.num_key_heads, m.key_head_dim))
    key = ops.view(key, (batch_size, seq_len, m.num_key_heads, m.key_head_dim))
    value = ops.view(value, (batch_size, seq_len, m.num_value_heads, m.value_head_dim))

    beta = ops.sigmoid(b)
    g = -ops.exp(ops.cast(m.value("A_log"), "fp32")) * ops.softplus(ops.cast(a, "fp32") + m.value("dt_bias"))
    if recurrent_state is not None and yes(seq_len == 1):
        core_attn_out, last_recurrent_state = recurrent_gated_delta_rule(
            query, key, value, g, beta, recurrent_state, output_final_state=cache_params is not None
        )
    else:
        core_attn_out, last_recurrent_state = chunk_gated_delta_rule(
            query, key, value, g, beta, recurrent_state, output_final_state=cache_params is not None
        )
    if cache_params is not None and last_recurrent_state is not None:
        cache_params.update_recurrent_state(last_recurrent_state, index)

    core_attn_out = ops.view(core_attn_out, (ops.rows(core_attn_out), m.value_head_dim))
    z = ops.view(z, (ops.rows(z), m.value_head_dim))
    core_attn_out = m.norm(core_attn_out, z)
    core_attn_out = ops.view(core_attn_out, (batch_size, seq_len, m.value_size))
    output: Sym = m[m.out](core_attn_out)
    return output


def olmo_hybrid(
    m: Bound, hidden_states: Sym, cache_params: Cache | None, attention_mask: Sym | None, index: int
) -> Sym:  # fmt: skip
    """Mirror OlmoHybridGatedDeltaNet.forward: six maps, the last one made when it is needed."""
    hidden_states = masked(hidden_states, attention_mask)
    batch_size, seq_len, _ = hidden_states.shape
    use_cache = cache_params is not None
    if cache_params is not None:
        conv_state = cache_params.conv_state(index)
        recurrent_state = cache_params.recurrent_state(index)
    else:
        conv_state, recurrent_state = None, None
    mixed_qkv = ops.transpose(
        ops.cat([m.q_proj(hidden_states), m.k_proj(hidden_states), m.v_proj(hidden_states)], 2), 1, 2
    )  # fmt: skip
    if conv_state is not None and yes(seq_len == 1):
        mixed_qkv = causal_conv1d_update(mixed_qkv, conv_state, squeezed(m.conv1d), None, m.activation)
    else:
        if cache_params is not None:
            mixed_qkv = cache_params.update_conv_state(mixed_qkv, index, m.conv_kernel)
        mixed_qkv = causal_conv1d_fn(mixed_qkv, squeezed(m.conv1d), None, m.activation)
        mixed_qkv = last_tokens(mixed_qkv, seq_len)
    q, k, v = ops.split_sizes(ops.transpose(mixed_qkv, 1, 2), (m.key_size, m.key_size, m.value_size))
    q = ops.view(q, (batch_size, seq_len, m.num_key_heads, m.key_head_dim))
    k = ops.view(k, (batch_size, seq_len, m.num_key_heads, m.key_head_dim))
    v = ops.view(v, (batch_size, seq_len, m.num_value_heads, m.value_head_dim))

    beta = ops.sigmoid(m.b_proj(hidden_states))
    if m.negative:
        beta = beta * 2.0
    g = -ops.exp(ops.cast(m.value("A_log"), "fp32")) * ops.softplus(
        ops.cast(m.a_proj(hidden_states), "fp32") + m.value("dt_bias")
    )
    output: Sym
    if recurrent_state is not None and yes(seq_len == 1):
        output, last_recurrent_state = recurrent_gated_delta_rule(q, k, v, g, beta, recurrent_state, use_cache)
    else:
        output, last_recurrent_state = chunk_gated_delta_rule(q, k, v, g, beta, recurrent_state, use_cache)
    if cache_params is not None and last_recurrent_state is not None:
        cache_params.update_recurrent_state(last_recurrent_state, index)

    gate = m.g_proj(hidden_states)
    output = ops.view(output, (ops.rows(output), m.value_head_dim))
    gate = ops.view(gate, (batch_size * seq_len * m.num_value_heads, m.value_head_dim))
    output = m[m.norm](output, gate)
    output = ops.view(output, (batch_size, seq_len, m.value_size))
    output = m[m.out](output)
    return output


def gated_norm(m: Bound, hidden_states: Sym, gate: Sym) -> Sym:
    """Mirror Qwen3NextRMSNormGated.forward: both [.., E], the norm before the gate."""
    input_dtype = hidden_states.dtype
    hidden_states = ops.cast(hidden_states, "fp32")
    variance = ops.mean(ops.power(hidden_states))
    hidden_states = hidden_states * ops.rsqrt(variance + EPSILON)
    hidden_states = m.weight * ops.cast(hidden_states, input_dtype)
    hidden_states = hidden_states * ops.silu(ops.cast(gate, "fp32"))
    return ops.cast(hidden_states, input_dtype)


BY_MAPS = {2: qwen3_next, 4: qwen3_5, 6: olmo_hybrid}  # how many maps a class has
