"""The Mamba-1 mixer with its local variables, as transformers runs it with the package mamba-ssm, or without: token
by token.

Shape letters: B batch, S sequence, I inner width, N state size, R rank of the time step. Every token leaves a state
[B, I, N] in fp32 and a cast of it behind, and its backward makes a tensor [B, I, S, N] for each of its two slices.
Source: transformers 5.23, models/mamba/modeling_mamba.py; Falcon-Mamba and Jamba put norms on dt, B and C.
"""

# ruff: noqa: N803, N806  state-space matrices have capital letters, here as in the class
from __future__ import annotations

from oomph import ops
from oomph.errors import UnsupportedError, UsageError
from oomph.programs.cache import Cache
from oomph.programs.causal_conv import convolved, masked
from oomph.programs.mixer_packages import MAMBA_SSM, refuse_alone
from oomph.tape.bound import WRAPPED, Bound
from oomph.tape.sizes import Size, number, yes
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape
from oomph.tape.turns import READ, scan

MOST_TOKENS = 2048  # each is some forty events in every layer; in training so many take half a minute


def mixer(
    m: Bound, hidden_states: Sym, cache_params: Cache | None, attention_mask: Sym | None, index: int
) -> Sym:  # fmt: skip
    """Mirror MambaMixer.forward: hidden_states [B, S, H] in and out."""
    seq_len = hidden_states.shape[1]
    dtype = hidden_states.dtype
    recurrent_state = None if cache_params is None else cache_params.recurrent_state(index)

    hidden_states = masked(hidden_states, attention_mask)
    projected_states = ops.transpose(m.in_proj(hidden_states), 1, 2)
    A = -ops.exp(ops.cast(m.value("A_log"), "fp32"))
    if m.tape.training and cache_params is None and m.inner_norms != "weighted":
        if MAMBA_SSM in m.tape.mixers:
            return _fused(m, projected_states, A)
        _for_the_kernel(m)
    hidden_states_B_C, gate = ops.split_axis(projected_states, 1, (m.inner_size, m.inner_size))

    hidden_states_B_C = convolved(m.conv1d, hidden_states_B_C, cache_params, index, m.activation)

    hidden_states_B_C = masked(ops.transpose(hidden_states_B_C, 1, 2), attention_mask)
    sizes = (m.time_step_rank, m.state_size, m.state_size)
    time_step, B, C = ops.split_sizes(m.x_proj(hidden_states_B_C), sizes)
    if m.inner_norms:
        time_step = m.dt_layernorm(time_step)
        B = m.b_layernorm(B)
        C = m.c_layernorm(C)
    weight, bias = _time_map(m.dt_proj)
    time_step = ops.matrix_times(weight, ops.transpose(time_step, 1, 2))
    time_proj_bias = ops.cast(bias, "fp32")

    if recurrent_state is not None and yes(seq_len == 1):
        scan_output = selective_state_update(
            recurrent_state,
            ops.select(ops.transpose(hidden_states_B_C, 1, 2), 2),
            ops.select(time_step, 2),
            A,
            ops.select(B, 1),
            ops.select(C, 1),
            m.value("D"),
            ops.select(gate, 2),
            time_proj_bias,
        )
        scan_output = ops.unsqueeze(scan_output, 2)
    else:
        D = ops.cast(m.value("D"), "fp32")
        scan_result = selective_scan(
            ops.transpose(hidden_states_B_C, 1, 2), time_step, A, B, C, D, gate, time_proj_bias,
            return_last_state=cache_params is not None,
        )  # fmt: skip
        del D  # an argument that nobody else holds
        scan_output, final_state = scan_result
        if cache_params is not None and final_state is not None:
            cache_params.update_recurrent_state(final_state, index)

    contextualized_states: Sym = m.out_proj(ops.cast(ops.transpose(scan_output, 1, 2), dtype))
    return contextualized_states


def _fused(m: Bound, projected_states: Sym, A: Sym) -> Sym:
    """Return what mamba_inner_fn makes of projected_states [B, 2·I, S]; its arguments in fp32 are nobody else's."""
    refuse_alone(m.tape.mixers)
    if m.bias:
        raise UnsupportedError(
            "mamba-ssm's mamba_inner_fn fails with a bias on its last map, which transformers hands to it in fp32.",
            "Say --mixers torch.",
        )
    x_proj, dt_proj, out_proj = (weight_alone(m[name], name) for name in ("x_proj", "dt_proj", "out_proj"))
    conv, D, bias = m.conv1d, ops.cast(m.value("D"), "fp32"), ops.cast(_time_map(m.dt_proj)[1], "fp32")
    return ops.mamba_inner(
        projected_states, conv.value("weight"), conv.parts["bias"], x_proj, dt_proj, out_proj, A, D, bias,
        normed=m.inner_norms == "bare",
    )  # fmt: skip


def weight_alone(part: Bound, name: str) -> Sym:
    """Return the weight of a map that mamba-ssm's functions for a whole mixer are handed."""
    if WRAPPED in part.parts:
        raise UsageError(
            f"An adapter on {name} would never train: transformers hands mamba-ssm the weight past it.",
            f"Leave {name} out (--targets in_proj, for one), or say --mixers torch.",
        )
    weight = part.parts.get("weight")
    if not isinstance(weight, Sym) or weight.dtype not in ("bf16", "fp16", "fp32"):
        raise UnsupportedError(
            f"mamba-ssm fails with a quantised {name}, whose weight transformers hands to it as it is stored.",
            "Take --quantization none, or say --mixers torch.",
        )
    return weight


def _for_the_kernel(m: Bound) -> None:
    """Make what the class hands to a kernel that is not there, but Jamba: fp32 copies, for a moment."""
    out_proj = m.out_proj
    while WRAPPED in out_proj.parts:
        out_proj = out_proj.parts[WRAPPED]
    tuple_of_arguments = [ops.cast(out_proj.parts["bias"], "fp32")] if m.bias else []
    tuple_of_arguments.append(ops.cast(m.value("D"), "fp32"))
    bias = ops.cast(_time_map(m.dt_proj)[1], "fp32")
    while tuple_of_arguments:
        tuple_of_arguments.pop()  # it dies from the back
    del bias


def _time_map(dt_proj: Bound) -> tuple[Sym, Sym]:
    """Return weight and bias of the map of the time step, which the class reads itself."""
    if WRAPPED in dt_proj.parts:
        raise UsageError(
            "An adapter on dt_proj would never train: transformers reads the weight past it.",
            "Name the other maps: --targets in_proj,x_proj, for two.",
        )
    weight, bias = dt_proj.parts.get("weight"), dt_proj.parts.get("bias")
    if not isinstance(weight, Sym) or not isinstance(bias, Sym) or weight.dtype not in ("bf16", "fp16", "fp32"):
        raise UnsupportedError("oomph cannot play a quantised Mamba-1 mixer yet.", "Trace it instead: oomph trace.")
    return weight, bias


def selective_scan(
    hidden_states: Sym,
    dt: Sym,
    A: Sym,
    B: Sym,
    C: Sym,
    D: Sym,
    z: Sym,
    delta_bias: Sym,
    return_last_state: bool = False,
) -> tuple[Sym, Sym | None]:
    """Mirror mamba_selective_scan: x, dt and z [B, I, S], A [I, N], B and C [B, S, N], D and delta_bias [I].

    Returns the output [B, I, S] and, if asked for, the last state [B, I, N].
    """
    if MAMBA_SSM in hidden_states.tape.mixers:
        turned = ops.transpose(B, 1, 2), ops.transpose(C, 1, 2)
        return ops.selective_scan(hidden_states, dt, A, *turned, D, z, delta_bias, return_last_state)
    batch_size, intermediate_size, seq_len = hidden_states.shape
    input_dtype = hidden_states.dtype
    dt = dt + ops.unsqueeze(ops.cast(delta_bias, dt.dtype), 1)
    dt = ops.softplus(dt)

    discrete_A = ops.exp(ops.unsqueeze(ops.unsqueeze(A, 0), 2) * ops.unsqueeze(dt, 3))
    discrete_B = ops.unsqueeze(dt, 3) * ops.cast(ops.unsqueeze(B, 1), "fp32")
    deltaB_u = discrete_B * ops.cast(ops.unsqueeze(hidden_states, 3), "fp32")

    scan_output = hidden_states  # the names in the order of the class's locals
    ssm_state = hidden_states.tape.empty((batch_size, intermediate_size, A.shape[-1]), input_dtype, op="zeros")
    scan_outputs = []
    for _ in scan(hidden_states.tape, _accepted(hidden_states.tape, seq_len)):
        ssm_state = ops.select(discrete_A, 2) * ssm_state + ops.select(deltaB_u, 2)
        scan_output = ops.bmm(ops.cast(ssm_state, input_dtype), ops.unsqueeze(ops.select(C, 1), 2))
        scan_outputs.append(ops.select(scan_output, 2))
    scan_output = ops.stack_last(scan_outputs, seq_len)

    scan_output = scan_output + hidden_states * ops.unsqueeze(ops.unsqueeze(D, 0), 2)
    scan_output = scan_output * ops.activate("silu", z)
    return scan_output, ssm_state if return_last_state else None


def _accepted(tape: Tape, seq_len: Size) -> Size:
    """Return how many tokens are played one by one; refused where they are too many."""
    most = MOST_TOKENS if tape.training else READ * MOST_TOKENS
    if not yes(seq_len <= most):
        raise UnsupportedError(
            f"oomph plays a Mamba-1 scan of at most {most} tokens, one by one as transformers runs it, not of "
            f"{number(seq_len)}.",
            "Say --mixers mamba-ssm+causal-conv1d if those packages are installed, whose scan is one kernel; else ask "
            f"for at most {most} tokens (--seq, --context), or trace the real code: oomph trace.",
        )
    return seq_len


def selective_state_update(
    state: Sym, hidden_states: Sym, dt: Sym, A: Sym, B: Sym, C: Sym, D: Sym, z: Sym, dt_bias: Sym
) -> Sym:
    """Mirror mamba_selective_state_update: x, dt and z [B, I], B and C [B, N]; the state [B, I, N] is written in place.

    Returns [B, I].
    """
    if MAMBA_SSM in hidden_states.tape.mixers:
        return ops.selective_state_update(hidden_states)
    input_dtype = hidden_states.dtype
    dt = dt + ops.cast(dt_bias, dt.dtype)
    dt = ops.softplus(dt)
    dA = ops.exp(ops.unsqueeze(ops.cast(dt, "fp32"), 2) * ops.cast(A, "fp32"))
    dB = ops.unsqueeze(ops.cast(dt, "fp32"), 2) * ops.unsqueeze(ops.cast(B, "fp32"), 1)
    dBx = dB * ops.unsqueeze(ops.cast(hidden_states, "fp32"), 2)
    ssm_state = ops.cast(state, "fp32") * dA + dBx
    ops.cast(ssm_state, state.dtype)
    out = ops.select(ops.bmm(ops.cast(ssm_state, C.dtype), ops.unsqueeze(C, 2)), 2)
    out = out + hidden_states * D
    out = out * ops.activate("silu", z)
    return ops.cast(out, input_dtype)
