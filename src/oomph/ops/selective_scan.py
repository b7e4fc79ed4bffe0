"""The package mamba-ssm's kernels of Mamba-1: the scan alone, and all of a mixer behind its first map.

Shape letters: B batch, I inner width, S sequence, N state size, R rank of the time step, K kernel of the convolution, H
hidden. A scan keeps two numbers for each state, in fp32, every 2048 tokens: [B, I, S / 2048, 2·N], whatever S may be
there are no states of all tokens. Source: mamba-ssm 2.3.2, ops/selective_scan_interface.py and
csrc/selective_scan/selective_scan.cpp. A function's frame is a function here: its locals die in the order of their
names.
"""

# ruff: noqa: N803, N806, F841, RUF059  the package's own names, some of which nobody reads
from __future__ import annotations

from typing import Any

from oomph.errors import UnsupportedError
from oomph.ops.causal_conv1d import causal_conv1d_bwd, causal_conv1d_fwd
from oomph.ops.einsum import einsum
from oomph.ops.elementwise import cast, grad
from oomph.ops.indexing import reshaped, swapped
from oomph.ops.kernel import end_kept, let_go, zeros_of_second
from oomph.ops.matmul import linear, mm
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, new, view_of
from oomph.workspaces import parts_of

CHUNK = 2048  # tokens between two states that are kept
MOST_STATES = 256  # that the kernels know


def selective_scan(
    u: Sym, delta: Sym, A: Sym, B: Sym, C: Sym, D: Sym, z: Sym, delta_bias: Sym, return_last_state: bool = False
) -> tuple[Sym, Sym | None]:  # fmt: skip
    """Return SelectiveScanFn of u, delta and z [B, I, S], A [I, N], B and C [B, N, S], D and delta_bias [I] in fp32:
    the output [B, I, S], gated, and if asked for the last state, a view [B, I, N] of all that were kept.

    Whatever of u, delta, B, C and z does not have time innermost is copied, and the copy saved. Saves all operands, the
    fp32 states and the output before the gate. Backward makes gradients like the operands, those of B and C in fp32
    first; one that came in is copied if time is not innermost. Source: mamba-ssm 2.3.2, selective_scan_interface.py,
    SelectiveScanFn; selective_scan.cpp, selective_scan_fwd and selective_scan_bwd.

    Forward three tensors 2·16·64·2 B (u's copy is none) and states 2·16·8·4 B; in backward gradients like u, delta and
    z, A's, B's and C's in fp32 and in 16 bits, D's and the bias's.
    >>> from oomph.tape.testing import cost, fp32
    >>> wide = (2, 16, 64)
    >>> given = wide, wide, fp32(16, 4), (2, 4, 64), (2, 4, 64), fp32(16), wide, fp32(16)
    >>> cost(lambda *operands: selective_scan(*operands)[0], *given)
    Cost(allocated=9216, saved=19840, backward=18816)
    """
    operands = (u, delta, A, B, C, D, z, delta_bias)
    node = record("SelectiveScanFn", operands, _scan_backward, 2 if return_last_state else 1)
    with u.tape.no_grad():
        u, delta, B, C, z = (_time_innermost(each) for each in (u, delta, B, C, z))
        B, C = _one_group(B), _one_group(C)
        out, x, out_z = _scan_fwd(u, delta, A, z)
        last_state = _last_state(x) if return_last_state else None
    if node is not None:
        node.in_python = True
    kept = [u, delta, A, B, C, D, z, delta_bias, x, out]
    save(node, *kept)
    del operands, u, delta, A, B, C, D, z, delta_bias, x, out
    end_kept(kept, node)
    return made_by(out_z, node), last_state and made_by(last_state, node, 1)


def _scan_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    (batch, inner, _), (_, states) = saved[0].shape, saved[2].shape
    zeros = zeros_of_second(node, gradients, (batch, inner, states))
    found = _scan_backward_frame(grad(gradients), saved)
    del zeros  # the last of the arguments
    gradients.clear()
    return found


def _scan_backward_frame(dout: Sym, saved: list[Any]) -> Gradients:
    """Mirror the backward's frame."""
    u, delta, A, B, C, D = saved[:6]
    delta_bias, x, z, out = saved[7], saved[8], saved[6], saved[9]  # as the names come first there
    let_go(saved)
    dout = _time_innermost(dout)
    dz = like(z, z.dtype, "empty_like")
    du, ddelta, dA, dB, dC, dD, ddelta_bias = _scan_bwd(u, delta, A, B, C, D, delta_bias, None)
    return [du, ddelta, dA, _squeezed(dB), _squeezed(dC), dD, dz, ddelta_bias]


def mamba_inner(
    xz: Sym, conv_weight: Sym, conv_bias: Sym | None, x_proj: Sym, dt_proj: Sym, out_proj: Sym, A: Sym, D: Sym,
    delta_bias: Sym, normed: bool = False,
) -> Sym:  # fmt: skip
    """Return MambaInnerFn: xz [B, 2·I, S] through convolution, maps, scan, gate and the map out [H, I] to [B, S, H].

    conv_weight [I, 1, K], x_proj [R + 2·N, I], dt_proj [I, R], A [I, N], D and delta_bias [I] in fp32. The maps are
    products on weights alone: adapters on them have no part in it. An xz without time innermost, which is all that a
    map makes, is copied first. Saves xz, what x_proj made, B and C, A, the states and the output before the gate; with
    autocast casts of the three maps. `normed`: B, C and the time step go through norms, each as rows and back, whose
    scales get no gradients; backward norms them once more. Backward makes the convolution and the time step again, and
    all gradients, wanted or not. Source: mamba-ssm 2.3.2, selective_scan_interface.py, MambaInnerFn (checkpoint_lvl 1).

    >>> from oomph.tape.testing import cost, fp32
    >>> given = (2, 32, 64), (16, 1, 4), (16,), (9, 16), (16, 1), (8, 16), fp32(16, 4), fp32(16), fp32(16)
    >>> cost(mamba_inner, *given)
    Cost(allocated=32000, saved=18784, backward=53152)
    """
    inputs = [xz, conv_weight, *([] if conv_bias is None else [conv_bias]), x_proj, dt_proj, out_proj, A, D, delta_bias]
    node = record("MambaInnerFn", inputs, _inner_backward)
    if node is not None:
        node.in_python, node.context = True, normed
    with xz.tape.no_grad():
        result, kept = _inner_forward(xz, conv_weight, conv_bias, x_proj, dt_proj, out_proj, A, D, delta_bias, normed)
    save(node, *kept)
    end_kept(kept, node)
    return made_by(result, node)


def _inner_forward(
    xz: Sym, conv1d_weight: Sym, conv1d_bias: Sym | None, x_proj_weight: Sym, delta_proj_weight: Sym,
    out_proj_weight: Sym, A: Sym, D: Sym, delta_bias: Sym, normed: bool,
) -> tuple[Sym, list[Sym | None]]:  # fmt: skip
    """Mirror the forward's frame: the result, and what it saves."""
    low = xz.tape.autocast
    if low is not None:
        x_proj_weight, delta_proj_weight = cast(x_proj_weight, low.dtype), cast(delta_proj_weight, low.dtype)
        out_proj_weight = cast(out_proj_weight, low.dtype)
    xz = _time_innermost(xz)
    batch, width, length = xz.shape
    states = A.shape[1]
    conv1d_weight = reshaped(conv1d_weight, (conv1d_weight.shape[0], conv1d_weight.shape[2]))
    x, z = _halves(xz)
    conv1d_out = causal_conv1d_fwd(x, conv1d_weight)
    x_dbl = linear(_rows_of(conv1d_out), x_proj_weight)
    delta = _of_time_step(delta_proj_weight, x_dbl, batch, length)
    B = _by_time(x_dbl, batch, length, states)
    C = _by_time(x_dbl, batch, length, states)
    if normed:
        B = _as_rows(B)
        B = _normed(B)
        B = _by_channel(B, (batch, 1, states, length))
        C = _as_rows(C)
        C = _normed(C)
        C = _by_channel(C, (batch, 1, states, length))
        delta = _as_rows(delta)
        delta = _normed(delta)
        delta = _by_channel(delta, (batch, width // 2, length))
    out, scan_intermediates, out_z = _scan_fwd(conv1d_out, delta, A, z)
    del conv1d_out, delta  # made again in backward
    kept = [
        xz, conv1d_weight, conv1d_bias, x_dbl, x_proj_weight, delta_proj_weight, out_proj_weight, None, None, A, B, C,
        D, delta_bias, scan_intermediates, out,
    ]  # fmt: skip
    return linear(swapped(out_z, 1, 2), out_proj_weight), kept


def _inner_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    found = _inner_backward_frame(node, grad(gradients), saved)
    gradients.clear()
    return found


def _inner_backward_frame(node: Node, dout: Sym, saved: list[Any]) -> Gradients:
    """Mirror the backward's frame."""
    (
        xz, conv1d_weight, conv1d_bias, x_dbl, x_proj_weight, delta_proj_weight, out_proj_weight, conv1d_out, delta, A,
        B, C, D, delta_bias, scan_intermediates, out,
    ) = saved  # fmt: skip
    let_go(saved)
    batch, width, length = xz.shape
    x, z = _halves(xz)
    conv1d_out = causal_conv1d_fwd(x, conv1d_weight)
    delta = _of_time_step(delta_proj_weight, x_dbl, batch, length)
    if node.context:
        delta = _as_rows(delta)
        delta = _normed(delta)
        delta = _by_channel(delta, (batch, width // 2, length))
        B = _as_rows(B)
        B = _normed(B)
        B = _by_channel(B, (batch, 1, A.shape[1], length))
        C = _as_rows(C)
        C = _normed(C)
        C = _by_channel(C, (batch, 1, A.shape[1], length))
    dxz = like(xz, xz.dtype, "empty_like")
    dout = reshaped(dout, (batch * length, dout.shape[2]))
    dout_y = new(xz.tape, (width // 2, batch * length), dout.dtype, op="mm")
    dconv1d_out, ddelta, dA, dB, dC, dD, ddelta_bias, out_z = _scan_bwd(conv1d_out, delta, A, B, C, D, delta_bias, out)
    dout_proj_weight = einsum("be,bd->ed", dout, _rows_of(out_z))
    dx_dbl = like(x_dbl, x_dbl.dtype, "empty_like")
    dB = _as_rows(dB)
    del dB
    dC = _as_rows(dC)
    del dC
    ddelta = swapped(_rows_of(ddelta), 0, 1)
    ddelta_proj_weight = einsum("dB,Br->dr", ddelta, _part(x_dbl, delta_proj_weight.shape[1]))
    einsum("dB,dr->Br", ddelta, delta_proj_weight)
    dconv1d_out = reshaped(swapped(dconv1d_out, 0, 1), (width // 2, batch * length))
    dx_proj_weight = einsum("Br,Bd->rd", dx_dbl, _rows_of(conv1d_out))
    dconv1d_out = swapped(reshaped(dconv1d_out, (width // 2, batch, length)), 0, 1)
    _, dconv1d_weight, dconv1d_bias = causal_conv1d_bwd(x, conv1d_weight, conv1d_bias, dconv1d_out, _halves(dxz)[0])
    found = [dxz, reshaped(dconv1d_weight, node.inputs[1][0]), dconv1d_bias]
    found += [dx_proj_weight, ddelta_proj_weight, dout_proj_weight, dA, dD, ddelta_bias]
    return [each for each in found if each is not None]


def _scan_fwd(u: Sym, delta: Sym, A: Sym, z: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror selective_scan_fwd: output, states and gated output."""
    batch, inner, length = u.shape
    if not yes(A.shape[1] <= MOST_STATES):
        raise UnsupportedError(f"mamba-ssm knows at most {MOST_STATES} states.", "Say --mixers torch.")
    out_z = like(z, z.dtype, "empty_like")
    out = like(delta, delta.dtype, "empty_like")
    x = new(u.tape, (batch, inner, parts_of(length, CHUNK), 2 * A.shape[1]), A.dtype, op="empty")
    return out, x, out_z


def _scan_bwd(u: Sym, delta: Sym, A: Sym, B: Sym, C: Sym, D: Sym, delta_bias: Sym, out: Sym | None) -> tuple[Sym, ...]:
    """Mirror selective_scan_bwd, the gate's gradient apart; of an `out` the gated output is made again, as the last."""
    again = [] if out is None else [like(out, out.dtype, "empty_like")]
    du, ddelta = like(u, u.dtype, "empty_like"), like(delta, delta.dtype, "empty_like")
    dA = like(A, A.dtype, "zeros_like")
    wide = [like(B, "fp32", "zeros_like"), like(C, "fp32", "zeros_like")]
    dD = like(D, D.dtype, "zeros_like")
    ddelta_bias = like(delta_bias, delta_bias.dtype, "zeros_like")
    dB, dC = cast(wide[0], B.dtype), cast(wide[1], C.dtype)
    while wide:  # C++ locals die in reverse order
        wide.pop()
    return du, ddelta, dA, dB, dC, dD, ddelta_bias, *again


def _time_innermost(x: Sym) -> Sym:
    """Return x, copied if its last axis is not the innermost."""
    return x if yes(x.strides[-1] == 1) else new(x.tape, x.shape, x.dtype, op="clone")


def _one_group(x: Sym) -> Sym:
    """Return B or C [B, N, S] as [B, 1, N, S]."""
    batch, states, length = x.shape
    return view_of(x, (batch, 1, states, length), (x.strides[0], states * x.strides[1], *x.strides[1:]))


def _squeezed(x: Sym) -> Sym:
    return view_of(x, (x.shape[0], *x.shape[2:]), (x.strides[0], *x.strides[2:]))


def _last_state(x: Sym) -> Sym:
    """Return x[:, :, -1, 1::2]: a view that keeps all of x."""
    batch, inner, _, numbers = x.shape
    return view_of(x, (batch, inner, numbers // 2), (x.strides[0], x.strides[1], 2))


def _halves(xz: Sym) -> tuple[Sym, Sym]:
    """Return xz.chunk(2, dim=1)."""
    shape = (xz.shape[0], xz.shape[1] // 2, xz.shape[2])
    return view_of(xz, shape, xz.strides), view_of(xz, shape, xz.strides)


def _rows_of(x: Sym) -> Sym:
    """Return x [B, I, S] as [B·S, I]: a view where strides allow."""
    batch, inner, length = x.shape
    return reshaped(swapped(x, 1, 2), (batch * length, inner))


def _part(x: Sym, count: Size) -> Sym:
    """Return x[:, :count] of a matrix: a view."""
    return view_of(x, (x.shape[0], count), x.strides)


def _of_time_step(dt_proj: Sym, x_dbl: Sym, batch: Size, length: Size) -> Sym:
    """Return dt_proj @ x_dbl[:, :R].T as [B, I, S], which lies as [I, B, S]."""
    made = mm(dt_proj, swapped(_part(x_dbl, dt_proj.shape[1]), 0, 1))
    return swapped(reshaped(made, (dt_proj.shape[0], batch, length)), 0, 1)


def _by_time(x_dbl: Sym, batch: Size, length: Size, states: Size) -> Sym:
    """Return N columns of x_dbl [B·S, W] as [B, 1, N, S], a copy."""
    row = x_dbl.strides[0]
    turned = view_of(x_dbl, (batch, 1, states, length), (length * row, states, 1, row))
    return turned if turned.is_contiguous() else new(x_dbl.tape, turned.shape, x_dbl.dtype, op="clone")


def _as_rows(x: Sym) -> Sym:
    """Return [B, I, S] or [B, 1, N, S] as contiguous rows [B·S, I]."""
    rows = _rows_of(x if len(x.shape) == len(("b", "d", "l")) else _squeezed(x))
    return rows if rows.is_contiguous() else new(x.tape, rows.shape, x.dtype, op="clone")


def _by_channel(rows: Sym, shape: tuple[Size, ...]) -> Sym:
    """Return rows [B·S, I] as contiguous [B, I, S] or [B, 1, N, S]."""
    row = rows.strides[0]
    turned = view_of(rows, shape, (shape[-1] * row, *[shape[-2]] * (len(shape) - len(("b", "d", "l"))), 1, row))
    return turned if turned.is_contiguous() else new(rows.tape, shape, rows.dtype, op="clone")


def _normed(rows: Sym) -> Sym:
    """Mirror rms_norm_forward of rows: a tensor like them, and a number in fp32 for each that nobody keeps."""
    y = like(rows, rows.dtype, "empty_like")
    new(rows.tape, (rows.shape[0],), "fp32", op="empty")
    return y


def selective_state_update(x: Sym) -> Sym:
    """Return selective_state_update of x [B, I], or [B, P, D] of heads, at one token: a tensor like x. The state is
    written in place; no autograd function, nothing is saved.

    Source: mamba-ssm 2.3.2, ops/triton/selective_state_update.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(selective_state_update, frozen(2, 16))
    Cost(allocated=64, saved=0, backward=0)
    """
    return like(x, x.dtype, "empty_like")
