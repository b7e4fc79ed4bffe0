"""The Mamba-2 mixer with its local variables, as transformers runs it with or without the package mamba-ssm: in
chunks.

Shape letters: B batch, S sequence, I inner width, P heads of D channels each, G groups, N state size; C chunks of L
positions. Per layer the scores of a chunk, [B, P, C, L, L] in fp32, are there several times over. Source: transformers
5.23, models/mamba2/modeling_mamba2.py; the mixers of its hybrids (Bamba, Granite 4, Nemotron-H) are the same.
"""

# ruff: noqa: N803, N806  state-space matrices have capital letters, here as in the class
from __future__ import annotations

from oomph import ops
from oomph.ops.ssd import MixerSizes
from oomph.programs.cache import Cache
from oomph.programs.causal_conv import convolved, masked, squeezed
from oomph.programs.mamba1 import weight_alone
from oomph.programs.mixer_packages import MAMBA_SSM, refuse_alone
from oomph.tape.bound import Bound
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym

EPSILON = 1e-6  # changes no byte


def mixer(
    m: Bound, hidden_states: Sym, cache_params: Cache | None, attention_mask: Sym | None, index: int
) -> Sym:  # fmt: skip
    """Mirror Mamba2Mixer.forward: hidden_states [B, S, H] in and out."""
    batch_size, seq_len, _ = hidden_states.shape
    dtype = hidden_states.dtype
    recurrent_state = None if cache_params is None else cache_params.recurrent_state(index)

    hidden_states = masked(hidden_states, attention_mask)
    projected_states = m.in_proj(hidden_states)
    A = -ops.exp(ops.cast(m.value("A_log"), "fp32"))
    if fuses(m, cache_params):
        return fused(m, projected_states, A)
    gate, hidden_states_B_C, dt = ops.split_sizes(projected_states, (m.inner_size, m.conv_size, m.num_heads))

    hidden_states_B_C = ops.transpose(hidden_states_B_C, 1, 2)
    hidden_states_B_C = convolved(m.conv1d, hidden_states_B_C, cache_params, index, m.activation)

    hidden_states_B_C = masked(ops.transpose(hidden_states_B_C, 1, 2), attention_mask)
    shared = m.num_groups * m.state_size
    hidden_states, B, C = ops.split_sizes(hidden_states_B_C, (m.inner_size, shared, shared))

    if recurrent_state is not None and yes(seq_len == 1):
        scan_output = one_step(m, recurrent_state, hidden_states, dt, A, B, C)
        scan_output = ops.view(scan_output, (batch_size, 1, m.inner_size))
    else:
        heads, groups = (
            (batch_size, seq_len, m.num_heads, m.head_dim),
            (batch_size, seq_len, m.num_groups, m.state_size),
        )
        scan_result = chunk_scan(
            ops.view(hidden_states, heads), dt, A, ops.view(B, groups), ops.view(C, groups), m.chunk_size,
            m.value("D"), m.value("dt_bias"), recurrent_state, return_final_states=cache_params is not None,
        )  # fmt: skip
        scan_output, final_state = scan_result
        if cache_params is not None and final_state is not None:
            cache_params.update_recurrent_state(final_state, index)
        scan_output = ops.view(scan_output, (batch_size, seq_len, m.inner_size))

    scan_output = m.norm(scan_output, gate)
    contextualized_states: Sym = m.out_proj(ops.cast(scan_output, dtype))
    return contextualized_states


def fuses(m: Bound, cache_params: Cache | None) -> bool:
    """Tell whether a mixer goes through mamba_split_conv1d_scan_combined: in training, without a cache."""
    return MAMBA_SSM in m.tape.mixers and m.tape.training and cache_params is None


def fused(m: Bound, projected_states: Sym, A: Sym) -> Sym:
    """Return what that function makes of projected_states [B, S, 2·I + 2·G·N + P]: [B, S, H]."""
    refuse_alone(m.tape.mixers)
    out_proj, conv = m.out_proj, m.conv1d
    weight_alone(out_proj, "out_proj")
    return ops.split_conv_scan(
        projected_states, squeezed(conv), conv.parts["bias"], m.value("dt_bias"), A, m.value("D"),
        m["norm"].value("weight") if m.gated_norm else None, out_proj.value("weight"), out_proj.parts["bias"],
        MixerSizes(m.chunk_size, m.head_dim, m.num_groups),
    )  # fmt: skip


def chunk_scan(
    hidden_states: Sym,
    dt: Sym,
    A: Sym,
    B: Sym,
    C: Sym,
    chunk_size: Size,
    D: Sym,
    dt_bias: Sym,
    initial_states: Sym | None = None,
    return_final_states: bool = False,
) -> tuple[Sym, Sym | None]:
    """Mirror mamba2_chunk_scan: x [B, S, P, D], dt [B, S, P], A [P], B and C [B, S, G, N], D and dt_bias [P].

    Returns the output [B, S, P, D] and, if asked for, the last state [B, P, D, N], both fp32; of the package mamba-ssm
    the output in x's dtype.
    """
    if MAMBA_SSM in hidden_states.tape.mixers:
        return ops.ssd_scan(
            hidden_states, dt, A, B, C, chunk_size, D, dt_bias, initial_states, return_final_states
        )  # fmt: skip
    batch_size, sequence_length, num_heads, head_dim = hidden_states.shape
    num_groups = B.shape[2]
    dt = dt + ops.cast(dt_bias, dt.dtype)
    dt = ops.softplus(dt)
    dt = ops.clamp_both(dt)

    hidden_states = ops.cast(hidden_states, "fp32")
    B = ops.repeat_each(ops.cast(B, "fp32"), 2, num_heads // num_groups)
    C = ops.repeat_each(ops.cast(C, "fp32"), 2, num_heads // num_groups)

    chunks = (sequence_length + chunk_size - 1) // chunk_size
    pad_size = chunks * chunk_size - sequence_length
    D_residual = _last_axis(D) * _padded(hidden_states, pad_size)

    hidden_states = hidden_states * ops.cast(_last_axis(dt), "fp32")
    A = A * ops.cast(dt, "fp32")
    hidden_states, A, B, C = [_in_chunks(each, pad_size, chunks, chunk_size) for each in (hidden_states, A, B, C)]

    A = ops.permute(A, (0, 3, 1, 2))
    A_cumsum = ops.cumsum(A, 3)

    L = ops.exp(segment_sum(A))
    G = ops.einsum("bclhn,bcshn->bclsh", C, B)
    M = G * ops.permute(L, (0, 2, 3, 4, 1))
    Y_diag = ops.einsum("bclsh,bcshp->bclhp", M, hidden_states)

    decay_states = ops.exp(ops.last_place(A_cumsum) - A_cumsum)
    B_decay = B * _last_axis(ops.permute(decay_states, (0, 2, 3, 1)))
    states = ops.einsum("bclhn,bclhp->bchpn", B_decay, hidden_states)

    if initial_states is not None:
        previous_states = ops.cast(ops.unsqueeze(initial_states, 1), states.dtype)
    else:
        previous_states = ops.zeros_like(ops.part(states, 0, 1, axis=1))
    states = ops.cat([previous_states, states], 1)
    decay_chunk = ops.transpose(
        ops.exp(segment_sum(ops.pad_axis(ops.select(A_cumsum, 3), 2, 1, 0))), 1, 3
    )  # fmt: skip
    new_states = ops.einsum("bzch,bzhpn->bchpn", decay_chunk, states)
    states, final_state = ops.part(new_states, 0, chunks, axis=1), ops.select(new_states, 1)

    state_decay_out = ops.exp(A_cumsum)
    C_times_states = ops.einsum("bclhn,bchpn->bclhp", C, states)
    Y_off = C_times_states * _last_axis(ops.permute(state_decay_out, (0, 2, 3, 1)))

    output = ops.contiguous(Y_diag + Y_off)
    output = ops.view(output, (batch_size, chunks * chunk_size, num_heads, head_dim))
    output = output + D_residual
    if yes(pad_size > 0):
        output = ops.part(output, 0, sequence_length, axis=1)
    return output, final_state if return_final_states else None


def _last_axis(x: Sym) -> Sym:
    """Return x[..., None]."""
    return ops.unsqueeze(x, len(x.shape))


def _padded(input_tensor: Sym, pad_size: Size) -> Sym:
    """Mirror pad_tensor_by_size: zeros after the last position."""
    return ops.pad_axis(input_tensor, 1, 0, pad_size)


def _in_chunks(input_tensor: Sym, pad_size: Size, chunks: Size, chunk_size: Size) -> Sym:
    """Mirror reshape_into_chunks: [B, S, ..] to [B, C, L, ..]."""
    input_tensor = _padded(input_tensor, pad_size)
    return ops.view(input_tensor, (input_tensor.shape[0], chunks, chunk_size, *input_tensor.shape[2:]))


def segment_sum(input_tensor: Sym) -> Sym:
    """Mirror segment_sum: [.., L] to the sums between any two positions [.., L, L], none above the diagonal."""
    tape, chunk_size = input_tensor.tape, input_tensor.shape[-1]
    shape = (*input_tensor.shape, chunk_size)
    input_tensor = ops.expand(_last_axis(input_tensor), shape)
    mask = ops.triangle(tape, chunk_size)
    input_tensor = ops.masked_fill(input_tensor, ops.unary(mask, "bitwise_not"))
    tensor_segsum = ops.cumsum(input_tensor, len(shape) - 2)
    mask = ops.triangle(tape, chunk_size)
    tensor_segsum = ops.masked_fill(tensor_segsum, ops.unary(mask, "bitwise_not"))
    return tensor_segsum


def one_step(
    m: Bound, state: Sym, hidden_states: Sym, dt: Sym, A: Sym, B: Sym, C: Sym, z: Sym | None = None
) -> Sym:  # fmt: skip
    """Mirror what Mamba2Mixer.forward does with one token: every operand gets the axes of the state."""
    batch_size, heads, head_dim = state.shape[:3]
    shared = (batch_size, m.num_groups, m.state_size)
    return selective_state_update(
        state,
        ops.view(hidden_states, (batch_size, heads, head_dim)),
        ops.expand(ops.transpose(dt, 1, 2), (batch_size, heads, head_dim)),
        ops.expand(_last_axis(_last_axis(A)), (heads, head_dim, m.state_size)),
        ops.view(B, shared),
        ops.view(C, shared),
        ops.expand(_last_axis(m.value("D")), (heads, head_dim)),
        ops.expand(_last_axis(m.value("dt_bias")), (heads, head_dim)),
        z,
    )


def selective_state_update(
    state: Sym, hidden_states: Sym, dt: Sym, A: Sym, B: Sym, C: Sym, D: Sym, dt_bias: Sym, z: Sym | None = None
) -> Sym:  # fmt: skip
    """Mirror mamba2_selective_state_update: the state [B, P, D, N] is written in place; returns [B, P, D].

    `z` [B, P, D] is a gate on what comes out.
    """
    if MAMBA_SSM in hidden_states.tape.mixers:
        return ops.selective_state_update(hidden_states)
    batch_size, num_heads, head_dim = hidden_states.shape
    num_groups, state_size = B.shape[1:]
    dt = dt + ops.cast(dt_bias, dt.dtype)
    dt = ops.softplus(dt)
    dt = _last_axis(dt)
    dA = ops.exp(ops.cast(dt, "fp32") * ops.cast(A, "fp32"))

    spread = (batch_size, num_groups, num_heads // num_groups, state_size)
    B = ops.view(B, (batch_size, num_groups, 1, state_size))
    B = ops.contiguous(ops.expand(B, spread))
    B = ops.view(B, (batch_size, num_heads, 1, state_size))
    dB = dt * B
    dBx = dB * _last_axis(hidden_states)
    ssm_states = state * dA + dBx
    ops.cast(ssm_states, state.dtype)

    C = ops.view(C, (batch_size, num_groups, 1, state_size))
    C = ops.contiguous(ops.expand(C, spread))
    C = ops.view(C, (batch_size, num_heads, state_size))
    ssm_states = ops.cast(ssm_states, C.dtype)
    ssm_states_reshaped = ops.view(ssm_states, (batch_size * num_heads, head_dim, state_size))
    C_reshaped = ops.view(C, (batch_size * num_heads, state_size, 1))
    out = ops.bmm(ssm_states_reshaped, C_reshaped)
    out = ops.view(out, (batch_size, num_heads, head_dim))
    out = ops.cast(out + hidden_states * D, out.dtype)
    if z is not None:
        out = out * ops.activate("silu", z)
    return ops.cast(out, hidden_states.dtype)


def gated_norm(m: Bound, hidden_states: Sym, gate: Sym) -> Sym:
    """Mirror MambaRMSNormGated.forward: both [B, S, I], a mean of squares for each group of channels."""
    input_dtype = hidden_states.dtype
    hidden_states = ops.cast(hidden_states, "fp32")
    hidden_states = hidden_states * ops.activate("silu", ops.cast(gate, "fp32"))
    *prefix_dims, last_dim = hidden_states.shape
    hidden_states_group = ops.view(hidden_states, (*prefix_dims, m.num_groups, last_dim // m.num_groups))
    variance = ops.mean(ops.power(hidden_states_group))
    hidden_states_group = hidden_states_group * ops.rsqrt(variance + EPSILON)
    hidden_states = ops.view(hidden_states_group, (*prefix_dims, last_dim))
    weight: Sym = m.weight
    return weight * ops.cast(hidden_states, input_dtype)
