"""Norms, rotary embeddings and gated activations as one kernel each: Liger's and Unsloth's autograd functions.

Their kernels are launched from Python, so all that is allocated is in the Python code; they write gradients over what
they are given wherever they can.
"""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import cast, grad
from oomph.ops.indexing import contiguous, reshaped, swapped, transpose
from oomph.ops.kernel import let_go, seen
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save, sum_to
from oomph.tape.sizes import product
from oomph.tape.sym import Sym, new
from oomph.workspaces import MULTIPROCESSORS


def _rows(x: Sym) -> Sym:
    return reshaped(x, (product(x.shape[:-1]), x.shape[-1]))


def liger_rms_norm(x: Sym, weight: Sym, in_place: bool = True) -> Sym:
    """Return LigerRMSNormFunction of x [.., H] with a scale [H]: shaped and typed like x, whatever the scale's dtype.

    Saves x as it came, the scale and an fp32 number per row. Backward writes x's gradient over the incoming one, which
    `in_place` False forbids; the scale's is summed up in fp32 by each multiprocessor (132 of an H100), then over them,
    then cast. What does not lie in order is copied first. Source: liger-kernel 0.8.5, ops/rms_norm.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(liger_rms_norm, (4, 256), frozen(256)), cost(liger_rms_norm, (4, 256), (256,))
    (Cost(allocated=2064, saved=2576, backward=0), Cost(allocated=2064, saved=2576, backward=136704))
    """
    node = record("LigerRMSNormFunction", (x, weight), _liger_rms_norm_backward)
    with x.tape.no_grad():
        kept = contiguous(x)
        out = new(x.tape, (product(x.shape[:-1]), x.shape[-1]), x.dtype, op="empty")
        rstd = new(x.tape, (product(x.shape[:-1]),), "fp32", op="empty")
    save(node, kept, weight, rstd)
    del rstd  # before a copy
    if node is not None:
        node.context = in_place
    return made_by(seen(out, x.shape), node)


def _liger_rms_norm_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, tape = contiguous(grad(gradients)), grad(gradients).tape
    partial = None
    if node.needs(1):
        columns = gradient.shape[-1]
        partial = new(tape, (MULTIPROCESSORS if tape.on == "gpu" else 1, columns), "fp32", op="empty")
    own = gradient if node.context else like(_rows(gradient), gradient.dtype, "zeros_like")
    of_scale = None
    if partial is not None:
        of_scale = cast(sum_to(partial, partial.shape[1:]), node.inputs[1][1])
        del partial
    let_go(saved)
    return [seen(own, gradient.shape), of_scale]


def unsloth_rms_norm(x: Sym, weight: Sym) -> Sym:
    """Return Unsloth's Fast_RMS_Layernorm of x [.., H] with a scale [H]: shaped and typed like x.

    Saves x as it came, the scale and an fp32 number per row. Backward writes x's gradient over the incoming one; the
    scale gets none. Source: fms-acceleration-foak 0.7, kernels/unsloth/rms_layernorm.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(unsloth_rms_norm, (4, 256), frozen(256))
    Cost(allocated=2064, saved=2576, backward=0)
    """
    node = record("Fast_RMS_Layernorm", (x,), _over_incoming)
    out = new(x.tape, (product(x.shape[:-1]), x.shape[-1]), x.dtype, op="empty")
    inverse = new(x.tape, (product(x.shape[:-1]),), "fp32", op="empty")
    save(node, x, weight, inverse)
    return made_by(seen(out, x.shape), node)


def _over_incoming(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    saved.append(saved.pop(0))  # x has a second name, dW
    let_go(saved)
    return [seen(gradient, gradient.shape)]


def liger_rotary(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Return LigerRopeFunction of q [B, N, S, D], k [B, K, S, D] and tables cos and sin [P, S, R]: q and k turned where
    they lie in memory as [B, S, N, D], else in copies that do.

    Saves the tables. Backward turns the gradients in place, or in such copies. Source: liger-kernel 0.8.5, ops/rope.py.

    >>> from oomph.tape.testing import cost, frozen, transposed
    >>> table = frozen(1, 4, 64)
    >>> turn = transposed(lambda q, k: liger_rotary(q, k, *[q.tape.empty((1, 4, 64), "bf16")] * 2))
    >>> cost(turn, (2, 4, 8, 64), (2, 4, 2, 64))
    Cost(allocated=512, saved=512, backward=10240)
    """
    node = record("LigerRopeFunction", (q, k), _liger_rotary_backward, outputs=2)
    with q.tape.no_grad():
        q = contiguous(swapped(q, 1, 2))
        k = contiguous(swapped(k, 1, 2))
        cos, sin = contiguous(cos), contiguous(sin)
    save(node, cos, sin)
    return made_by(swapped(q.detach(), 1, 2), node), made_by(swapped(k.detach(), 1, 2), node, 1)


def _liger_rotary_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    turned = [contiguous(swapped(grad(gradients, at), 1, 2)) for at in range(2)]
    while gradients:  # a tuple of arguments: the last dies first
        gradients.pop()
    let_go(saved)
    return [swapped(one, 1, 2) for one in turned]


def unsloth_rotary(q: Sym, k: Sym, cos: Sym, sin: Sym) -> tuple[Sym, Sym]:
    """Return Unsloth's Fast_RoPE_Embedding of q [B, N, S, D] and k [B, K, S, D] with tables cos and sin [1, S, D]: both
    turned where they lie, which must be as [B, S, N, D].

    Saves no tensor; the tables live as long as the graph. Backward turns the gradients in place, or copies that lie so.
    Source: fms-acceleration-foak 0.7, kernels/unsloth/rope_embedding.py.

    >>> from oomph.tape.testing import cost, transposed
    >>> turn = transposed(lambda q, k: unsloth_rotary(q, k, *[q.tape.empty((1, 4, 64), "bf16")] * 2))
    >>> cost(turn, (2, 4, 8, 64), (2, 4, 2, 64))
    Cost(allocated=512, saved=0, backward=10240)
    """
    q = transpose(_turned(transpose(q, 1, 2), cos, sin), 1, 2)
    k = transpose(_turned(transpose(k, 1, 2), cos, sin), 1, 2)
    return q, k


def _turned(x: Sym, cos: Sym, sin: Sym) -> Sym:
    node = record("Fast_RoPE_Embedding", (x,), _turned_backward)
    if node is not None:
        node.context = {"cos": cos.detach(), "sin": sin.detach()}
    return made_by(x.detach(), node)


def _turned_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    batch, length, heads, size = gradient.shape
    return [seen(reshaped(gradient, (batch * length, heads * size)), gradient.shape)]


def liger_glu(kind: str, gate: Sym, up: Sym) -> Sym:
    """Return LigerSiLUMulFunction ("swiglu") or LigerGELUMulFunction ("geglu") of gate and up [.., F]: act(gate) · up.

    Saves both, copied first where they do not lie in order; backward writes their gradients over them. Source:
    liger-kernel 0.8.5, ops/swiglu.py, ops/geglu.py.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda gate, up: liger_glu("swiglu", gate, up), (4, 256), (4, 256))
    Cost(allocated=2048, saved=4096, backward=0)
    """
    shape, node = gate.shape, record("LigerSiLUMulFunction", (gate, up), _over_saved)
    with gate.tape.no_grad():
        args = [contiguous(gate), contiguous(up)]
    out = new(gate.tape, (product(shape[:-1]), shape[-1]), gate.dtype, op="empty_like")
    save(node, *args)
    if node is not None:
        args.reverse()  # a list of arguments dies from its end, what a context was to save from its beginning
    del args
    if kind == "geglu":  # called without a function around it: of a tuple of arguments the last dies first
        del up
    return made_by(seen(out, shape), node)


def _over_saved(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    incoming = contiguous(grad(gradients))
    found: Gradients = [seen(kept, incoming.shape) for kept in saved]
    let_go(saved)
    return found
