"""The package causal-conv1d: a depthwise convolution over time and its activation, as one operation.

Shape letters: B batch, C channels, S sequence, K kernel, of 2 to 4 places. x [B, C, S] lies as it is written or with
its channels last; nothing is padded, so nothing is cut off. Source: causal-conv1d 1.7.0, its files
causal_conv1d_interface.py, cpp_functions.py and csrc/causal_conv1d.cpp.
"""

from __future__ import annotations

from typing import Any

from oomph.errors import UnsupportedError
from oomph.ops.elementwise import cast, grad
from oomph.ops.kernel import let_go
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym, new

KERNELS = (2, 4)  # the fewest and most places that the kernels know
TOGETHER = 8  # channels that they load at once where channels lie last


def causal_conv1d(x: Sym, weight: Sym, bias: Sym | None = None, seq_idx: Sym | None = None) -> Sym:
    """Return CausalConv1dFn of x [B, C, S] with weight [C, K] and bias [C], its activation included: [B, C, S] in x's
    dtype and layout. The weight may have another dtype than x.

    Saves x, the weight and the bias, whichever train, and `seq_idx` [B, S] int32, to which sequence each token belongs,
    if that is told; no more with an activation. An x whose innermost axis is
    neither time nor channels is copied, and the copy saved. Backward makes all three gradients, wanted or not: x's in
    its dtype, the others in fp32, cast to the weight's dtype one by one; a gradient that does not lie as x does is
    copied for the time of the kernel. Source: causal-conv1d 1.7.0, causal_conv1d_interface.py, CausalConv1dFn.

    x and its gradient 2·16·64·2 B, the weight's gradient 16·4·4 B and 16·4·2 B, the bias's 16·4 B and 16·2 B.
    >>> from oomph.tape.testing import cost
    >>> cost(causal_conv1d, (2, 16, 64), (16, 4), (16,))
    Cost(allocated=4096, saved=4256, backward=4576)
    """
    inputs = (x, weight) if bias is None else (x, weight, bias)
    node = record("CausalConv1dFn", inputs, _backward)
    with x.tape.no_grad():
        x = one_innermost(x)
        out = causal_conv1d_fwd(x, weight)
    if node is not None:
        node.in_python = True
    save(node, x, weight, bias, seq_idx)
    return made_by(out, node)


def _backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    found = _backward_frame(grad(gradients), saved)
    gradients.clear()  # a tuple of arguments
    return found


def _backward_frame(dout: Sym, saved: list[Any]) -> Gradients:
    """Mirror the backward's frame."""
    x, weight, bias, _seq_idx = saved
    let_go(saved)
    found = causal_conv1d_bwd(x, weight, bias, one_innermost(dout))
    return [each for each in found if each is not None]


def causal_conv1d_fwd(x: Sym, weight: Sym) -> Sym:
    """Return causal_conv1d_fwd_function of x [B, C, S] and weight [C, K], which others call too: one tensor like x.

    Nothing is saved. Raises UnsupportedError for what the kernels refuse. Source: causal-conv1d 1.7.0,
    cpp_functions.py; csrc/causal_conv1d.cpp, causal_conv1d_fwd.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(causal_conv1d_fwd, frozen(2, 16, 64), frozen(16, 4))
    Cost(allocated=4096, saved=0, backward=0)
    """
    _check(x, weight)
    return like(x, x.dtype, "empty_like")


def causal_conv1d_bwd(
    x: Sym, weight: Sym, bias: Sym | None, dout: Sym, dx: Sym | None = None
) -> tuple[Sym, Sym, Sym | None]:  # fmt: skip
    """Return the gradients of x [B, C, S], weight [C, K] and bias [C] that causal_conv1d_bwd_function makes of the one
    that came in, `dout` [B, C, S]; x's is written into `dx` if that is given.

    The others are made in fp32 and then cast. A `dout` that does not lie as x does is copied for the time of the
    kernel. Source: causal-conv1d 1.7.0, cpp_functions.py; csrc/causal_conv1d.cpp, causal_conv1d_bwd.

    >>> from oomph.tape.testing import cost, frozen
    >>> given = frozen(2, 16, 64), frozen(16, 4), frozen(16), frozen(2, 16, 64)
    >>> cost(lambda *operands: causal_conv1d_bwd(*operands)[0], *given).allocated
    4576
    """
    if dx is None:
        dx = like(x, x.dtype, "empty_like")
    dweight = new(x.tape, weight.shape, "fp32", op="zeros_like")
    dbias = None if bias is None else new(x.tape, bias.shape, "fp32", op="zeros_like")
    _check(x, weight)
    _lying_like(x, dout)
    dweight = cast(dweight, weight.dtype)
    if dbias is not None and bias is not None:
        dbias = cast(dbias, bias.dtype)
    return dx, dweight, dbias


def causal_conv1d_update(x: Sym, conv_state: Sym, weight: Sym, bias: Sym | None = None) -> Sym:
    """Return causal_conv1d_update of x [B, C, S], tokens behind those of conv_state [B, C, K], which is written in
    place: one tensor like x. No autograd function: nothing is saved. Raises UnsupportedError where dtypes differ that
    the host code wants alike.

    Source: causal-conv1d 1.7.0, causal_conv1d_interface.py, causal_conv1d_update; cpp_functions.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(causal_conv1d_update, frozen(2, 16, 1), frozen(2, 16, 4), frozen(16, 4))
    Cost(allocated=64, saved=0, backward=0)
    """
    _check_places(weight)
    if conv_state.dtype != x.dtype or (bias is not None and bias.dtype != weight.dtype):
        raise UnsupportedError("causal-conv1d refuses a state or a bias of another dtype.", "Say --mixers torch.")
    return like(x, x.dtype, "empty_like")


def one_innermost(x: Sym) -> Sym:
    """Return x [B, C, S], copied if neither time nor channels lie innermost; without a history.

    Source: causal-conv1d 1.7.0, causal_conv1d_interface.py, CausalConv1dFn.

    >>> from oomph.tape.testing import cost, frozen
    >>> from oomph.ops.indexing import swapped
    >>> [cost(each, frozen(2, 16, 64)).allocated for each in (one_innermost, lambda x: one_innermost(swapped(x, 0, 2)))]
    [0, 4096]
    """
    if yes(x.strides[2] == 1) or yes(x.strides[1] == 1):
        return x
    return new(x.tape, x.shape, x.dtype, op="clone")


def _channels_last(x: Sym) -> bool:
    return yes(x.strides[1] == 1) and yes(x.strides[2] > 1)


def _lying_like(x: Sym, dout: Sym) -> None:
    """Copy a gradient for a moment if it does not lie as x does."""
    if not yes(dout.strides[1 if _channels_last(x) else 2] == 1):
        new(x.tape, dout.shape, dout.dtype, op="contiguous")


def _check(x: Sym, weight: Sym) -> None:
    """Refuse what the host code does: other kernels, and channels that it cannot load together."""
    _check_places(weight)
    aligned = (
        yes(x.shape[1] % TOGETHER == 0) and yes(x.strides[2] % TOGETHER == 0) and yes(x.strides[0] % TOGETHER == 0)
    )
    if _channels_last(x) and not aligned:
        raise UnsupportedError(
            f"causal-conv1d refuses channels, or rows of them, that are no multiple of {TOGETHER}.",
            "Say --mixers torch.",
        )


def _check_places(weight: Sym) -> None:
    fewest, most = KERNELS
    if not (yes(weight.shape[1] >= fewest) and yes(weight.shape[1] <= most)):
        raise UnsupportedError(
            f"causal-conv1d knows kernels of {fewest} to {most} places alone.", "Say --mixers torch."
        )
