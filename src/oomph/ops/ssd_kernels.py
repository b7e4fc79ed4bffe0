"""What mamba-ssm's kernels of Mamba-2 allocate: the scan in chunks and its backward, and the gated norm.

Shape letters: B batch, S sequence, P heads of D channels, G groups, N state size; C chunks of L positions. x is
[B, S, P, D], dt [B, S, P], A [P], B and C [B, S, G, N]. Names and their order are those of the package's functions, as
a local lives to the end of its frame. Some sums are made in parts, as many as keep 132 multiprocessors at work, an
H100's. Source: mamba-ssm 2.3.2, ops/triton/ssd_combined.py, ssd_chunk_state.py, ssd_state_passing.py, ssd_bmm.py,
ssd_chunk_scan.py and layernorm_gated.py; not in its deterministic mode.
"""

# ruff: noqa: N803, N806, F841, RUF059  the package's own names, some of which nobody reads
from __future__ import annotations

from oomph.ops.elementwise import cast
from oomph.ops.indexing import reshaped
from oomph.tape.autograd import like, sum_to
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, new
from oomph.workspaces import MULTIPROCESSORS, parts_of

FEWEST_ROWS = 32  # of a chunk that a program of some kernels takes
FEWEST_STATES = 64  # of a head that a program takes
WARP, MOST_WARPS, FEW_WARPS = 256, 8, 4  # of the norm: channels for a warp, and how many warps are many or few

Made = tuple[Sym, Sym | None, Sym, Sym, Sym, Sym]


def chunked_forward(x: Sym, dt: Sym, A: Sym, B: Sym, C: Sym, chunk_size: Size, z: Sym | None = None) -> Made:
    """Return what _mamba_chunk_scan_combined_fwd makes of x, dt, A, B and C: the output [B, S, P, D], with a gate `z`
    the output before it, the steps and their sums [B, P, C, L] in fp32, the states of all chunks [B, C, P, D·N] in x's
    dtype, the last ones [B, P, D, N] in fp32.

    Beside them for a time the states in fp32, then the products of B and C [B, C, G, L, L] in fp32. Source: mamba-ssm
    2.3.2, ops/triton/ssd_combined.py.

    Of two chunks: steps 2·2·64·4 B, states 2·2·16·8·(4 + 2) B, the last ones 2·16·8·4 B, products 2·32·32·4 B and the
    output 64·2·16·2 B.
    >>> from oomph.tape.testing import cost, fp32, frozen
    >>> scan = lambda x, dt, A, B: chunked_forward(x, dt, A, B, B, 32)[0]
    >>> cost(scan, frozen(1, 64, 2, 16), frozen(1, 64, 2), fp32(2), frozen(1, 64, 1, 8)).allocated
    17408
    """
    B = _states_innermost(B)
    C = _states_innermost(C)
    dA_cumsum, dt = _chunk_cumsum_fwd(dt, chunk_size)
    states = _chunk_state_fwd(B, x, dt)
    states, final_states = _state_passing_fwd(states, C.dtype)
    CB = _bmm_chunk_fwd(C, dt)
    out = new(x.tape, x.shape, x.dtype, op="empty")
    out_x = None if z is None else new(x.tape, x.shape, x.dtype, op="empty")
    final_states = reshaped(final_states, (*x.shape[:1], *x.shape[2:], B.shape[3]))
    return out, out_x, dt, dA_cumsum, states, final_states


def chunked_backward(
    dout: Sym,
    x: Sym,
    dt: Sym,
    A: Sym,
    B: Sym,
    C: Sym,
    out: Sym,
    chunk_size: Size,
    D: Sym,
    z: Sym | None,
    dt_bias: Sym,
    dx: Sym | None = None,
    ddt: Sym | None = None,
    dB: Sym | None = None,
    dC: Sym | None = None,
    dz: Sym | None = None,
    recompute_output: bool = False,
) -> tuple[Sym, Sym, Sym, Sym, Sym, Sym, Sym | None, Sym, Sym]:
    """Return _mamba_chunk_scan_combined_bwd of the output's gradient [B, S, P, D]: those of x, dt, A, B, C, D, z and
    dt_bias, and the gated output, made again.

    Gradients are written where the caller wants them, if anywhere. All states are made again and passed on in fp32; the
    gradients of B and C are summed up in fp32 for each part of a group's heads, those of their products too,
    [B, C, parts, G, L, L]. Source: mamba-ssm 2.3.2, ops/triton/ssd_combined.py.

    >>> from oomph.tape.testing import cost, fp32, frozen
    >>> def back(dout, dt, A, B, D):
    ...     return chunked_backward(dout, dout, dt, A, B, B, dout, 32, D, None, D)[0]
    >>> cost(back, frozen(1, 64, 2, 16), frozen(1, 64, 2), fp32(2), frozen(1, 64, 1, 8), frozen(2)).allocated
    66660
    """
    batch, seqlen, nheads, _ = x.shape
    dB_given = like(B, B.dtype, "empty_like") if dB is None else dB
    dC_given = like(C, C.dtype, "empty_like") if dC is None else dC
    ddt_given = like(dt, dt.dtype, "empty_like") if ddt is None else ddt
    dt_in = like(dt, dt.dtype, "clone")
    dA_cumsum, dt = _chunk_cumsum_fwd(dt_in, chunk_size)
    CB = _bmm_chunk_fwd(C, dt)
    states = _chunk_state_fwd(B, x, dt)
    states, _ = _state_passing_fwd(states, states.dtype)
    if z is not None:
        dz, dout, dD, outz = _chunk_scan_bwd_dz(x, z, out, dout, dt, D, dz, recompute_output)
    else:
        dz, outz = None, out
    dstates = new(x.tape, states.shape, states.dtype, op="empty")
    dstates, ddA_chunk_cumsum, states = _state_passing_bwd(states, dstates, x.dtype)
    dx, ddt, dD_from_x = _chunk_scan_chunk_state_bwd_dx(x, dt, D, dx)
    dB, ddA_next = _sums_of_groups(x, dt, B)
    dC, ddA_cumsum_prev = _sums_of_groups(x, dt, C)
    dCB = _chunk_scan_bwd_dcb(x, dt, CB)
    if z is None:
        dD = dD_from_x
    ddA_prev = _cumsum_backwards(ddA_cumsum_prev)
    ddA = _chunk_scan_bwd_ddAcs_stable(dt)
    like(ddA, ddA.dtype, "add")
    ddt_bias = like(dt_bias, "fp32", "empty_like")
    dA = like(A, "fp32", "empty_like")
    return dx, ddt_given, dA, dB_given, dC_given, dD, dz, ddt_bias, outz


def gated_norm_forward(x: Sym, z: Sym, num_groups: Size) -> tuple[Sym, Sym]:
    """Return _layer_norm_fwd of rows x and gates z [B·S, I]: normed rows, and a number in fp32 for each group of each.

    Source: mamba-ssm 2.3.2, ops/triton/layernorm_gated.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x, z: gated_norm_forward(x, z, 2)[0], frozen(8, 64), frozen(8, 64)).allocated
    1088
    """
    out = like(x, x.dtype, "empty_like")
    return out, new(x.tape, (num_groups * x.shape[0],), "fp32", op="empty")


def gated_norm_backward(x: Sym, weight: Sym, num_groups: Size) -> tuple[Sym, Sym]:
    """Return _layer_norm_bwd of rows x [B·S, I] and a scale [I]: their gradients, where the gate's and the output's
    places are given.

    The scale's is summed up in fp32 by each multiprocessor, by four times as many programs where groups are small,
    shared among the groups. Source: mamba-ssm 2.3.2, ops/triton/layernorm_gated.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x, weight: gated_norm_backward(x, weight, 1)[0], frozen(8, 64), frozen(64)).allocated
    136576
    """
    dx = like(x, x.dtype, "empty_like")
    warps = _norm_warps(x, num_groups)
    row_groups = parts_of(MULTIPROCESSORS * parts_of(FEW_WARPS, warps), num_groups)
    _dw = new(x.tape, (row_groups, x.shape[1]), "fp32", op="empty")
    dw = cast(sum_to(_dw, weight.shape), weight.dtype)
    return dx, dw


def _norm_warps(x: Sym, num_groups: Size) -> int:
    """Return how many warps a program has: one for 256 channels of a group, rounded up to a power of two; at most 8."""
    size = x.shape[1] // num_groups
    warps = 1
    while warps < MOST_WARPS and not yes(size <= warps * WARP):
        warps *= 2
    return warps


def _states_innermost(B: Sym) -> Sym:
    """Return B or C [B, S, G, N], copied if its states are not innermost, as after a convolution of too few tokens."""
    return B if yes(B.strides[-1] == 1) else new(B.tape, B.shape, B.dtype, op="clone")


def _chunk_cumsum_fwd(dt: Sym, chunk_size: Size) -> tuple[Sym, Sym]:
    batch, seqlen, nheads = dt.shape
    shape = (batch, nheads, parts_of(seqlen, chunk_size), chunk_size)
    dt_out = new(dt.tape, shape, "fp32", op="empty")
    dA_cumsum = new(dt.tape, shape, "fp32", op="empty")
    return dA_cumsum, dt_out


def _chunk_state_fwd(B: Sym, x: Sym, dt: Sym) -> Sym:
    batch, _, nheads, headdim = x.shape
    return new(x.tape, (batch, dt.shape[2], nheads, headdim * B.shape[-1]), "fp32", op="empty")


def _state_passing_fwd(states: Sym, out_dtype: str) -> tuple[Sym, Sym]:
    batch, _, nheads, dim = states.shape
    out = new(states.tape, states.shape, out_dtype, op="empty")
    final_states = new(states.tape, (batch, nheads, dim), "fp32", op="empty")
    return out, final_states


def _bmm_chunk_fwd(a: Sym, dt: Sym) -> Sym:
    batch, _, ngroups, _ = a.shape
    _, _, nchunks, chunk_size = dt.shape
    return new(a.tape, (batch, nchunks, ngroups, chunk_size, chunk_size), "fp32", op="empty")


def _chunk_scan_bwd_dz(
    x: Sym, z: Sym, out: Sym, dout: Sym, dt: Sym, D: Sym, dz: Sym | None, recompute_output: bool
) -> tuple[Sym, Sym, Sym, Sym]:
    batch, _, nheads, _ = x.shape
    _, _, nchunks, chunk_size = dt.shape
    dD = new(x.tape, (parts_of(chunk_size, FEWEST_ROWS), batch, nchunks, nheads, 1), "fp32", op="empty")
    if dz is None:
        dz = like(z, z.dtype, "empty_like")
    outz = like(x, x.dtype, "empty_like") if recompute_output else out
    dout_x = like(dout, dout.dtype, "empty_like")
    dD = cast(new(x.tape, (nheads, 1), "fp32", op="sum"), D.dtype)
    return dz, dout_x, reshaped(dD, (nheads,)), outz


def _state_passing_bwd(states: Sym, dout: Sym, dtype: str) -> tuple[Sym, Sym, Sym]:
    batch, nchunks, nheads, dim = states.shape
    dstates = like(dout, dtype, "empty_like")
    states_converted = states if states.dtype == dtype else like(states, dtype, "empty_like")
    parts = (batch, nheads, nchunks, parts_of(dim, FEWEST_STATES))
    ddA_chunk_cumsum = new(dout.tape, parts, "fp32", op="empty")
    ddA_chunk_cumsum = new(dout.tape, parts[:3], "fp32", op="sum")
    return dstates, ddA_chunk_cumsum, states_converted


def _chunk_scan_chunk_state_bwd_dx(x: Sym, dt: Sym, D: Sym, dx: Sym | None) -> tuple[Sym, Sym, Sym]:
    batch, _, nheads, _ = x.shape
    _, _, nchunks, chunk_size = dt.shape
    dD = new(x.tape, (parts_of(chunk_size, FEWEST_ROWS), batch, nchunks, nheads, 1), "fp32", op="zeros")
    if dx is None:
        dx = like(x, x.dtype, "empty_like")
    ddt = new(x.tape, dt.shape, "fp32", op="empty")
    dD = new(x.tape, (nheads, 1), "fp32", op="sum")
    dD = new(x.tape, (nheads,), "fp32", op="sum")
    dD = cast(dD, D.dtype)
    return dx, ddt, dD


def _sums_of_groups(x: Sym, dt: Sym, B: Sym) -> tuple[Sym, Sym]:
    """Mirror _chunk_state_bwd_db, and _chunk_scan_bwd_dC, which allocates the same."""
    ddA_cumsum = new(x.tape, dt.shape, "fp32", op="empty")
    batch, seqlen, ngroups, dstate = B.shape
    dB = new(x.tape, (batch, seqlen, _splits(dt, ngroups), ngroups, dstate), "fp32", op="empty")
    dB = new(x.tape, B.shape, "fp32", op="sum")
    return dB, ddA_cumsum


def _chunk_scan_bwd_dcb(x: Sym, dt: Sym, CB: Sym) -> Sym:
    batch, nchunks, ngroups, chunk_size, _ = CB.shape
    shape = (batch, nchunks, _splits(dt, ngroups), ngroups, chunk_size, chunk_size)
    dcb = new(x.tape, shape, "fp32", op="empty")
    dcb = new(x.tape, CB.shape, "fp32", op="sum")
    return dcb


def _splits(dt: Sym, ngroups: Size) -> Size:
    """Return in how many parts the heads of a group are summed up: one where there is work enough without."""
    batch, nheads, nchunks, _ = dt.shape
    ratio = nheads // ngroups
    each = parts_of(batch * nchunks * nheads, MULTIPROCESSORS)
    each = each if yes(each <= ratio) else ratio
    return parts_of(ratio, each)


def _cumsum_backwards(ddA_cumsum_prev: Sym) -> Sym:
    """Mirror ddA_cumsum_prev.flip([-1]).cumsum(dim=-1).flip([-1])."""
    flipped = like(ddA_cumsum_prev, "fp32", "flip")
    summed = like(flipped, "fp32", "cumsum")
    del flipped
    return like(summed, "fp32", "flip")


def _chunk_scan_bwd_ddAcs_stable(dt: Sym) -> Sym:
    *first, chunk_size = dt.shape
    ddA_cumsum = new(dt.tape, (*first, parts_of(chunk_size, FEWEST_ROWS), chunk_size), "fp32", op="empty")
    ddA_cumsum = new(dt.tape, dt.shape, "fp32", op="sum")
    return ddA_cumsum
