"""Sums and means of whole tensors, and quotients of scalars: the last step of a loss."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad, result, wider
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sym import Sym, new


def total(x: Sym) -> Sym:
    """Return x.sum(): a scalar.

    Saves nothing; backward expands the gradient, a view. Source: torch tools/autograd/derivatives.yaml (sum).

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(total, fp32(1000))
    Cost(allocated=4, saved=0, backward=0)
    """
    node = record("Sum", (x,), _expanded)
    return made_by(new(x.tape, (), x.dtype, op="sum"), node)


def _expanded(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (shape, _) = grad(gradients), node.inputs[0]
    return [Sym(shape, gradient.dtype, (0,) * len(shape), gradient.storage)]


def mean_of_all(x: Sym) -> Sym:
    """Return x.mean(): a scalar.

    Saves nothing, sizes do; backward divides the expanded gradient, one tensor of x's size. Source:
    torch/csrc/autograd/FunctionsManual.cpp, mean_backward.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(mean_of_all, fp32(4, 256))
    Cost(allocated=4, saved=0, backward=4096)
    """
    node = record("Mean", (x,), _spread)
    return made_by(new(x.tape, (), x.dtype, op="mean"), node)


def _spread(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    shape, dtype = node.inputs[0]
    return [new(grad(gradients).tape, shape, dtype, op="div")]


def dot(a: Sym, b: Sym) -> Sym:
    """Return torch.dot(a, b) of two vectors: a scalar.

    Saves each only if the other wants a gradient: that is the other one times the incoming number. Source: torch
    tools/autograd/derivatives.yaml (dot).

    >>> from oomph.tape.testing import cost, fp32, frozen
    >>> cost(dot, fp32(1000), fp32(1000)), cost(dot, (1000,), frozen(1000))
    (Cost(allocated=4, saved=8000, backward=8000), Cost(allocated=2, saved=2000, backward=2000))
    """
    node = record("Dot", (a, b), _dot_backward)
    if node is not None:
        save(node, a if b.requires_grad else None, b if a.requires_grad else None)  # self, tensor
    return made_by(new(a.tape, (), a.dtype, op="dot"), node)


def _dot_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [
        result("mul", shape, gradient.dtype, saved[1 - at]) if node.needs(at) else None
        for at, (shape, _) in enumerate(node.inputs)
    ]


def row_norms(x: Sym) -> Sym:
    """Return torch.linalg.norm(x, dim=1) of a matrix [M, N] that wants no gradient: [M], in fp32 under autocast,
    which asks the kernel for it and casts nothing beforehand.

    Saves nothing. Source: ATen/native/LinearAlgebra.cpp, linalg_norm; AT_FORALL_FP32_SET_OPT_DTYPE in
    ATen/autocast_mode.h.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(row_norms, frozen(4, 256))
    Cost(allocated=8, saved=0, backward=0)
    """
    cast_to_fp32 = x.tape.autocast is not None and not x.tape.autocast_paused
    return new(x.tape, (x.shape[0],), "fp32" if cast_to_fp32 else x.dtype, op="linalg_vector_norm")


def divided(x: Sym, by: Sym) -> Sym:
    """Return x / by of one shape, `by` without a gradient: a loss by the number of tokens.

    Saves `by`, for g / by, a scalar. Source: torch tools/autograd/derivatives.yaml (div.Tensor).

    >>> from oomph.tape.testing import cost, fp32, ids
    >>> cost(divided, fp32(), ids())
    Cost(allocated=4, saved=8, backward=4)
    """
    node = record("Div", (x,), _divided)
    save(node, by)
    return made_by(result("div", x.shape, x.dtype, x), node)


def _divided(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result("div", gradient.shape, gradient.dtype, gradient)]


def frobenius_norm(x: Sym) -> Sym:
    """Return torch.norm(x, p="fro"): a scalar, in fp32 under autocast, which asks the kernel for it.

    Saves x and the norm. Backward: x over its norm, a byte that says whether that is zero, and the product with the
    incoming gradient. Source: torch/csrc/autograd/FunctionsManual.cpp, norm_backward.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(frobenius_norm, fp32(8, 8))
    Cost(allocated=4, saved=260, backward=513)
    """
    node = record("LinalgVectorNorm", (x,), _frobenius_norm_backward)
    cast_to_fp32 = x.tape.autocast is not None and not x.tape.autocast_paused
    out = new(x.tape, (), "fp32" if cast_to_fp32 else x.dtype, op="linalg_vector_norm")
    save(node, x, out)
    return made_by(out, node)


def _frobenius_norm_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    x = saved[0]
    direction = result("div", x.shape, x.dtype, x)
    is_zero = new(x.tape, (), "bool", op="eq")
    product = result("mul", x.shape, x.dtype, direction)
    del is_zero, direction  # C++ temporaries die in reverse order
    return [product]


def sums_of_sizes(x: Sym) -> Sym:
    """Return torch.norm(x, p=1, dim=-1, keepdim=True): x [.., K] to [.., 1], in fp32 under autocast, which asks the
    kernel for it.

    Saves x and the norm. Backward: the signs of x, then their product with the incoming gradient. Source:
    torch/csrc/autograd/FunctionsManual.cpp, norm_backward; tools/autograd/derivatives.yaml (linalg_vector_norm).

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(sums_of_sizes, fp32(8, 8))
    Cost(allocated=32, saved=288, backward=512)
    """
    node = record("LinalgVectorNorm", (x,), _signed)
    cast_to_fp32 = x.tape.autocast is not None and not x.tape.autocast_paused
    out = new(x.tape, (*x.shape[:-1], 1), "fp32" if cast_to_fp32 else x.dtype, op="linalg_vector_norm")
    save(node, x, out)
    return made_by(out, node)


def _signed(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, x = grad(gradients), saved[0]
    signs = result("sgn", x.shape, x.dtype, x)
    product = result("mul", x.shape, wider(x.dtype, gradient.dtype), signs)
    del signs
    return [product]
