"""The package mamba-ssm's autograd functions of Mamba-2: the scan alone, and all of a mixer behind its first map.

Shape letters: B batch, S sequence, P heads of D channels, I = P·D, G groups, N state size, K kernel of the convolution,
H hidden. A function's frame is a function here: its locals die in the order of their names. Source: mamba-ssm 2.3.2,
ops/triton/ssd_combined.py.
"""

# ruff: noqa: N803, N806, F841, RUF059  the package's own names, some of which nobody reads
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.ops.causal_conv1d import causal_conv1d_bwd, causal_conv1d_fwd
from oomph.ops.einsum import einsum
from oomph.ops.elementwise import cast, grad
from oomph.ops.indexing import reshaped, swapped
from oomph.ops.kernel import end_kept, let_go, zeros_of_second
from oomph.ops.matmul import linear
from oomph.ops.ssd_kernels import chunked_backward, chunked_forward, gated_norm_backward, gated_norm_forward
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save, sum_to
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, new, view_of
from oomph.tape.tape import autocast

TOGETHER = 8  # channels that the convolution loads at once


@dataclass(frozen=True)
class MixerSizes:
    """What a mixer's parameters do not tell: positions of a chunk L, channels of a head D, groups G."""

    chunk_size: Size
    head_dim: Size
    num_groups: Size


def ssd_scan(
    x: Sym,
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
    """Return MambaChunkScanCombinedFn of x [B, S, P, D], dt [B, S, P], A [P] in fp32, B and C [B, S, G, N], D and
    dt_bias [P]: the output, and if asked for the last states [B, P, D, N] in fp32; `initial_states` of that shape are
    read where they lie, and get no gradient here.

    Saves the operands, the output and sums of the steps [B, P, C, L] in fp32; no states. Source: mamba-ssm 2.3.2,
    MambaChunkScanCombinedFn.

    >>> from oomph.tape.testing import cost, fp32
    >>> def scan(x, dt, A, B, C, D):
    ...     return ssd_scan(x, dt, A, B, C, 32, D, D)[0]
    >>> cost(scan, (1, 64, 2, 16), (1, 64, 2), fp32(2), (1, 64, 1, 8), (1, 64, 1, 8), (2,))
    Cost(allocated=17408, saved=11020, backward=66664)
    """
    inputs, outputs = (x, dt, A, B, C, D, dt_bias), 2 if return_final_states else 1
    node = record("MambaChunkScanCombinedFn", inputs, _scan_backward, outputs)
    if node is not None:
        node.in_python, node.context = True, chunk_size
    with x.tape.no_grad():
        out, final_states, kept = _scan_forward(x, dt, A, B, C, chunk_size, D, dt_bias, return_final_states)
    save(node, *kept)
    end_kept(kept, node)
    return made_by(out, node), final_states and made_by(final_states, node, 1)


def _scan_forward(
    x: Sym, dt: Sym, A: Sym, B: Sym, C: Sym, chunk_size: Size, D: Sym, dt_bias: Sym, return_final_states: bool
) -> tuple[Sym, Sym | None, list[Sym]]:  # fmt: skip
    """Mirror the forward's frame: the result, the last states, and what it saves."""
    out, out_x, dt_out, dA_cumsum, states, final_states = chunked_forward(x, dt, A, B, C, chunk_size)
    kept = [out, x, dt, dA_cumsum, A, B, C, D, dt_bias]
    return out, final_states if return_final_states else None, kept


def _scan_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    (batch, _, heads, size), (*_, states) = saved[1].shape, saved[5].shape  # of x and B
    zeros = zeros_of_second(node, gradients, (batch, heads, size, states))
    found = _scan_backward_frame(node, grad(gradients), saved)
    del zeros  # the last of the arguments
    gradients.clear()
    return found


def _scan_backward_frame(node: Node, dout: Sym, saved: list[Any]) -> Gradients:
    """Mirror the backward's frame."""
    out, x, dt, dA_cumsum, A, B, C, D, dt_bias = saved
    let_go(saved)
    if not yes(dout.strides[-1] == 1):
        dout = new(dout.tape, dout.shape, dout.dtype, op="clone")
    *found, _, ddt_bias, _ = chunked_backward(dout, x, dt, A, B, C, out, node.context, D, None, dt_bias)
    return [*found, ddt_bias]


def split_conv_scan(
    zxbcdt: Sym, conv_weight: Sym, conv_bias: Sym | None, dt_bias: Sym, A: Sym, D: Sym, norm: Sym | None,
    out_proj: Sym, out_bias: Sym | None, sizes: MixerSizes,
) -> Sym:  # fmt: skip
    """Return MambaSplitConv1dScanCombinedFn of zxbcdt [B, S, 2·I + 2·G·N + P], what a mixer's first map made: through
    convolution, scan, gated norm and the map out to [B, S, H].

    conv_weight [I + 2·G·N, K] and conv_bias, dt_bias, A (fp32) and D [P], the norm's scale [I] if there is one,
    out_proj [H, I] and its bias, if any. The map out is a product on its weight alone: an adapter on it has no part in
    it. Saves zxbcdt, the scan's output and the norm's fp32 numbers; with autocast a cast of the last map; no states.
    Backward makes the convolution, the states and the normed output again, and all gradients, wanted or not. Source:
    mamba-ssm 2.3.2, MambaSplitConv1dScanCombinedFn.

    >>> from oomph.tape.testing import cost, fp32
    >>> def mixed(zxbcdt, conv, dt_bias, A, D, norm, out):
    ...     return split_conv_scan(zxbcdt, conv, None, dt_bias, A, D, norm, out, None, MixerSizes(32, 16, 1))
    >>> cost(mixed, (1, 64, 280), (144, 4), (8,), fp32(8), (8,), (128,), (24, 128))
    Cost(allocated=83200, saved=60096, backward=582176)
    """
    every = (conv_weight, conv_bias, dt_bias, A, D, norm, out_proj, out_bias)
    operands = [each for each in every if each is not None]
    node = record("MambaSplitConv1dScanCombinedFn", (zxbcdt, *operands), _split_backward)
    if node is not None:
        autocast_of = zxbcdt.tape.autocast
        node.in_python, node.context = True, (sizes, autocast_of and autocast_of.dtype)
    with zxbcdt.tape.no_grad():
        result, kept = _split_forward(zxbcdt, conv_weight, conv_bias, dt_bias, A, D, norm, out_proj, out_bias, sizes)
    save(node, *kept)
    end_kept(kept, node)
    return made_by(result, node)


def _split_forward(
    zxbcdt: Sym, conv1d_weight: Sym, conv1d_bias: Sym | None, dt_bias: Sym, A: Sym, D: Sym, rmsnorm_weight: Sym | None,
    outproj_weight: Sym, outproj_bias: Sym | None, sizes: MixerSizes,
) -> tuple[Sym, list[Sym | None]]:  # fmt: skip
    """Mirror the forward's frame: the result, and what it saves."""
    batch, seqlen, _ = zxbcdt.shape
    z, xBC, dt = _parts(zxbcdt, D, sizes)
    xBC_conv = _channels(causal_conv1d_fwd(_channels(_ensure_stride(xBC)), conv1d_weight))
    x, B, C = _heads(xBC_conv, D, sizes)
    if rmsnorm_weight is None:
        out, out_x, dt_out, dA_cumsum, states, final_states = chunked_forward(
            x, dt, A, B, C, sizes.chunk_size, _by_head(z, sizes)
        )
        out = reshaped(out, z.shape)
        rstd = None
    else:
        out_x, _, dt_out, dA_cumsum, states, final_states = chunked_forward(x, dt, A, B, C, sizes.chunk_size)
        rows = (batch * seqlen, z.shape[2])
        out, rstd = gated_norm_forward(reshaped(out_x, rows), reshaped(z, rows), sizes.num_groups)
        out = reshaped(out, z.shape)
    low = zxbcdt.tape.autocast
    if low is not None:
        out, outproj_weight = cast(out, low.dtype), cast(outproj_weight, low.dtype)
        outproj_bias = None if outproj_bias is None else cast(outproj_bias, low.dtype)
    out = linear(out, outproj_weight, outproj_bias)
    kept = [
        zxbcdt, conv1d_weight, conv1d_bias, out_x, A, D, dt_bias, rmsnorm_weight, rstd, outproj_weight, outproj_bias,
    ]  # fmt: skip
    return out, kept


def _split_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    with autocast(grad(gradients).tape, node.context[1]):  # as in the forward
        found = _split_backward_frame(node, grad(gradients), saved)
    gradients.clear()
    return found


def _split_backward_frame(node: Node, dout: Sym, saved: list[Any]) -> Gradients:
    """Mirror the backward's frame."""
    (
        zxbcdt, conv1d_weight, conv1d_bias, out, A, D, dt_bias, rmsnorm_weight, rstd, outproj_weight, outproj_bias,
    ) = saved  # fmt: skip
    let_go(saved)
    sizes: MixerSizes = node.context[0]
    out_recompute = new(out.tape, out.shape, out.dtype, op="empty")
    z, xBC, dt = _parts(zxbcdt, D, sizes)
    xBC_conv = _channels(causal_conv1d_fwd(_channels(_ensure_stride(xBC)), conv1d_weight))
    x, B, C = _heads(xBC_conv, D, sizes)
    dzxbcdt = like(zxbcdt, zxbcdt.dtype, "empty_like")
    dz, dxBC_given, ddt_given = _parts(dzxbcdt, D, sizes)
    dxBC = like(xBC, xBC.dtype, "empty_like")
    dx, dB, dC = _heads(dxBC, D, sizes)
    dout_og = dout
    dout = linear(dout, swapped(outproj_weight, 0, 1))
    dout = _by_head(dout, sizes)
    if rmsnorm_weight is None:
        dx, ddt, dA, dB, dC, dD, _, ddt_bias, out_for_linear = chunked_backward(
            dout, x, dt, A, B, C, out, sizes.chunk_size, D, _by_head(z, sizes), dt_bias, dx, ddt_given, dB, dC,
            _by_head(dz, sizes), True,
        )  # fmt: skip
        drmsnorm_weight = None
    else:
        rows = (z.shape[0] * z.shape[1], z.shape[2])
        dy_rms, x_rms, z_rms = reshaped(dout, rows), reshaped(out, rows), reshaped(z, rows)
        dout, drmsnorm_weight = gated_norm_backward(x_rms, rmsnorm_weight, sizes.num_groups)
        out_for_linear = out_recompute
        dout = reshaped(dout, out.shape)
        dx, ddt, dA, dB, dC, dD, _, ddt_bias, _ = chunked_backward(
            dout, x, dt, A, B, C, out, sizes.chunk_size, D, None, dt_bias, dx, ddt_given, dB, dC
        )
    doutproj_weight = einsum("bso,bsd->od", dout_og, reshaped(out_for_linear, z.shape))
    doutproj_bias = None
    if outproj_bias is not None and node.context[1] is None:
        doutproj_bias = sum_to(dout_og, outproj_bias.shape)
    elif outproj_bias is not None:  # autocast sums in fp32
        doutproj_bias = new(out.tape, outproj_bias.shape, "fp32", op="sum")
    dxBC_given_update, dweight, dbias = causal_conv1d_bwd(
        _channels(_ensure_stride(xBC)), conv1d_weight, conv1d_bias, _channels(_ensure_stride(dxBC)),
        _channels(_ensure_stride(dxBC_given)),
    )  # fmt: skip
    found = [dzxbcdt, dweight, dbias, ddt_bias, dA, dD, drmsnorm_weight, doutproj_weight, doutproj_bias]
    return [each for each in found if each is not None]


def _parts(zxbcdt: Sym, D: Sym, sizes: MixerSizes) -> tuple[Sym, Sym, Sym]:
    """Return z [B, S, I], xBC [B, S, I + 2·G·N] and dt [B, S, P]: views."""
    *first, width = zxbcdt.shape
    heads = D.shape[0]
    inner = heads * sizes.head_dim
    z, xBC, dt = (view_of(zxbcdt, (*first, each), zxbcdt.strides) for each in (inner, width - inner - heads, heads))
    return z, xBC, dt


def _heads(xBC: Sym, D: Sym, sizes: MixerSizes) -> tuple[Sym, Sym, Sym]:
    """Return x [B, S, P, D], B and C [B, S, G, N]: views."""
    *first, width = xBC.shape
    heads, groups = D.shape[0], sizes.num_groups
    states = (width - heads * sizes.head_dim) // groups // 2
    x = view_of(xBC, (*first, heads, sizes.head_dim), (*xBC.strides[:2], sizes.head_dim, 1))
    B, C = (view_of(xBC, (*first, groups, states), (*xBC.strides[:2], states, 1)) for _ in "BC")
    return x, B, C


def _by_head(z: Sym, sizes: MixerSizes) -> Sym:
    """Return z [B, S, I] as [B, S, P, D]: a view."""
    return reshaped(z, (*z.shape[:2], z.shape[2] // sizes.head_dim, sizes.head_dim))


def _ensure_stride(x: Sym) -> Sym:
    """Return x [B, S, C], copied if its rows are no multiple of 8 apart."""
    return x if yes(x.strides[1] % TOGETHER == 0) else new(x.tape, x.shape, x.dtype, op="clone")


def _channels(x: Sym) -> Sym:
    """Return x [B, S, C] as [B, C, S]: a view, channels last."""
    return swapped(x, 1, 2)
