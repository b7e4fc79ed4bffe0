"""RecurrentGemma's recurrence: the products of its gates, and a square root whose gradient is bounded."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad, result
from oomph.ops.matmul import autocast_argument
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sym import Sym, new


def biased_products(bias: Sym, a: Sym, b: Sym) -> Sym:
    """Return torch.baddbmm(bias, a, b): bias [B, 1, N] + a [B, M, K] @ b [B, K, N], a new [B, M, N]. Autocast casts
    the last argument first.

    Saves both factors: backward is a product for each, and the gradient summed for the bias. Source: torch
    tools/autograd/derivatives.yaml (baddbmm).

    >>> from oomph.tape.testing import cost
    >>> cost(biased_products, (8, 1, 4), (8, 4, 64), (8, 64, 4))
    Cost(allocated=256, saved=8192, backward=8256)
    """
    b = autocast_argument(b, cached=True)
    a = autocast_argument(a)
    bias = autocast_argument(bias)
    node = record("Baddbmm", (bias, a, b), _products_backward)
    save(node, a if node is not None and node.needs(2) else None, b if node is not None and node.needs(1) else None)
    return made_by(new(a.tape, (*a.shape[:2], b.shape[2]), a.dtype, op="baddbmm"), node)


def _products_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (a, b) = grad(gradients), saved
    first = second = None
    if node.needs(1):
        first = new(gradient.tape, (*gradient.shape[:2], b.shape[1]), gradient.dtype, op="bmm")
    if node.needs(2):
        second = new(gradient.tape, (a.shape[0], a.shape[2], gradient.shape[2]), gradient.dtype, op="bmm")
    return [gradient if node.needs(0) else None, first, second]


def bounded_sqrt(x: Sym) -> Sym:
    """Mirror SqrtBoundDerivative.apply: sqrt(x), shaped like x.

    Saves x: backward makes 4·x, bounds it, takes the root and divides the gradient by that, each in a tensor of its
    own. Source: transformers 5.23, models/recurrent_gemma/modeling_recurrent_gemma.py.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(bounded_sqrt, fp32(4, 256))
    Cost(allocated=4096, saved=4096, backward=16384)
    """
    node = record("SqrtBoundDerivative", (x,), _bounded_backward)
    save(node, x)
    return made_by(result("sqrt", x.shape, x.dtype, x), node)


def _bounded_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, x = grad(gradients), saved[0]
    scaled = result("mul", x.shape, x.dtype, x)
    clipped = result("clamp", x.shape, x.dtype, scaled)
    del scaled
    root = result("sqrt", x.shape, x.dtype, clipped)
    own = result("div", gradient.shape, gradient.dtype, gradient, root)
    del root, x, clipped
    saved[0] = gradients[0] = None  # the locals of a Python function, then its arguments, before its results are used
    del gradient
    return [own]
