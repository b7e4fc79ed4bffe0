"""Unsloth's norms of query and key heads and their rotary embedding as one kernel, and that of packed rows."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad
from oomph.ops.kernel import let_go
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sym import Sym, new


def normed_rotary(
    q: Sym, k: Sym, q_scale: Sym, k_scale: Sym, cos: Sym, sin: Sym, ids: Sym | None = None
) -> tuple[Sym, Sym]:
    """Return Unsloth's Fast_QK_Norm_RoPE of q [B, S, N, D] and k [B, S, K, D] with frozen scales [D] and tables
    [1, S, D]: normed and turned, shaped alike.

    Saves q, k, an fp32 number per head and token, scales, tables and positions, int32, or one number that stands for
    them. Backward makes a new gradient for each. Source: unsloth 2026.10.9, kernels/qk_norm_rope.py.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(normed_rotary, (2, 4, 8, 64), (2, 4, 2, 64), *[frozen(64)] * 2, *[frozen(1, 4, 64)] * 2)
    Cost(allocated=10564, saved=11844, backward=10240)
    """
    tape = q.tape
    node = record("Fast_QK_Norm_RoPE", (q, k), _backward, outputs=2)
    if node is not None:
        node.in_python = True
    rope_indices = new(tape, (1,), "int32", op="new_empty") if ids is None else ids.detach()
    with tape.no_grad():
        turned = [new(tape, each.shape, each.dtype, op="empty") for each in (q, k)]
        rq, rk = (new(tape, each.shape[:-1], "fp32", op="empty") for each in (q, k))
    save(node, q, k, q_scale, k_scale, rq, rk, cos, sin, rope_indices)
    del rq, rk
    return made_by(turned[0], node), made_by(turned[1], node, 1)


def _backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    incoming = [grad(gradients, at) for at in range(2)]
    made: Gradients = [new(each.tape, each.shape, each.dtype, op="empty") for each in incoming]
    del incoming
    let_go(saved)
    while gradients:  # a tuple of arguments: the last dies first
        gradients.pop()
    return made


def rotary_of_packed(q: Sym, k: Sym, cos: Sym, sin: Sym, ids: Sym) -> tuple[Sym, Sym]:
    """Return Unsloth's Fast_RoPE_Embedding_QK of q [B, N, S, D] and k [B, K, S, D] with positions, int32 [B, S]: turned
    where they lie if that is in order, else in new tensors laid out alike.

    Saves no tensor; tables and positions live as long as the graph. Backward makes new gradients in order. Source:
    unsloth 2026.10.9, kernels/rope_embedding.py.

    >>> from oomph.tape.testing import Given, cost, frozen, transposed
    >>> others = frozen(1, 4, 64), frozen(1, 4, 64), Given((2, 4), "int32", trains=False)
    >>> turn = lambda q, k, *rest: transposed(rotary_of_packed, *rest)(q, k)
    >>> cost(turn, (2, 4, 8, 64), (2, 4, 2, 64), *others)
    Cost(allocated=10240, saved=0, backward=10240)
    """
    node = record("Fast_RoPE_Embedding_QK", (q, k), _in_order, outputs=2)
    turned = [each.detach() if each.is_contiguous() else like(each, each.dtype, "empty_like") for each in (q, k)]
    if node is not None:
        node.in_python = True
        node.context = {"cos": cos.detach(), "sin": sin.detach(), "ids": ids.detach()}
    return made_by(turned[0], node), made_by(turned[1], node, 1)


def _in_order(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    incoming = [grad(gradients, at) for at in range(2)]
    made: Gradients = [new(each.tape, each.shape, each.dtype, op="empty") for each in incoming]
    del incoming
    while gradients:  # a tuple of arguments: the last dies first
        gradients.pop()
    return made
