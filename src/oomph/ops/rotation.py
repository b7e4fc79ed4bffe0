"""Rotations made of numbers that train, as orthogonal fine-tuning makes them, and their products with blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oomph.ops.elementwise import cast, grad
from oomph.ops.indexing import transpose, view
from oomph.ops.matmul import bmm
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, new


def put(values: Sym, shape: Sequence[Size]) -> Sym:
    """Return zeros of a shape into which values were written by index (index_put_): values [b, n] into [b, s, s].

    Saves the indices, which are buffers of the module; backward reads the gradient there, one tensor like the values;
    values of one row lose their first axis on the way, and their gradient is summed over it, one tensor more. Source:
    torch tools/autograd/derivatives.yaml (index_put_); torch/csrc/autograd/python_variable_indexing.cpp, THPVariable
    _setitem, slicePrefix1sSize.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: put(x, (2, 32, 32)), (2, 496))
    Cost(allocated=4096, saved=0, backward=1984)
    """
    zeros = new(values.tape, shape, values.dtype, op="zeros")
    written = view(values, values.shape[1:]) if yes(values.shape[0] == 1) else values
    node = record("IndexPut", (written,), _put_backward)
    if node is not None:
        node.context = values.shape
    return made_by(zeros, node)


def _put_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [new(grad(gradients).tape, node.context, node.inputs[0][1], op="index")]


def identity(like_this: Sym, size: Size, times: Size) -> Sym:
    """Return torch.eye(size).repeat(times, 1, 1) in a tensor's dtype: [times, size, size], and one block beforehand.

    Source: ATen/native/TensorFactories.cpp, eye; TensorShape.cpp, repeat.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x: identity(x, 32, 4), frozen(1)).allocated
    10240
    """
    one = new(like_this.tape, (size, size), like_this.dtype, op="eye")
    made = new(like_this.tape, (times, size, size), like_this.dtype, op="repeat")
    del one
    return made


def add_scaled_(x: Sym, other: Sym) -> Sym:
    """Return x += number · other, written into x, which is handed back with its new history. Allocates nothing.

    Saves nothing: x's gradient is the incoming one, the other's is scaled, one tensor. Source: torch
    tools/autograd/derivatives.yaml (add.Tensor).

    >>> from oomph.tape.testing import cost
    >>> cost(add_scaled_, (4, 256), (4, 256))
    Cost(allocated=0, saved=0, backward=2048)
    """
    return made_by(x, record("AddScaled", (x, other), _add_scaled_backward))


def _add_scaled_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    scaled = like(gradient, gradient.dtype, "mul") if node.needs(1) else None
    return [gradient if node.needs(0) else None, scaled]


def rotate_blocks(x: Sym, matrices: Sym) -> Sym:
    """Return einsum("...rk,rkc->...rc") of x [B, S, r, k] and matrices [r, k, c]: [B, S, r, c], a view of a product
    that lies as [r, B·S, c]. Autocast casts x, then the matrices.

    Saves what bmm saves. Source: ATen/native/Linear.cpp, einsum, sumproduct_pair; ATen/autocast_mode.h.

    >>> from oomph.tape.testing import cost
    >>> cost(rotate_blocks, (2, 4, 8, 32), (8, 32, 32))
    Cost(allocated=4096, saved=20480, backward=20480)
    """
    context = None if x.tape.autocast_paused else x.tape.autocast
    if context is not None:
        x, matrices = cast(x, context.dtype), cast(matrices, context.dtype)
    (batch, length, blocks, size), columns = x.shape, matrices.shape[-1]
    turned = transpose(transpose(x, 1, 2), 0, 1)
    product = bmm(view(turned, (blocks, batch * length, size)), matrices)
    del turned
    spread = view(product, (blocks, batch, length, columns))
    del product
    return transpose(transpose(spread, 0, 1), 1, 2)


def block_diagonal(x: Sym) -> Sym:
    """Return torch.block_diag(*x.unbind()) of x [n, s, s]: a new [n·s, n·s], zeros between the blocks.

    Saves nothing; backward takes the blocks out of the gradient as views and stacks them, one tensor like x. Source:
    ATen/native/TensorShape.cpp, block_diag; torch/csrc/autograd/FunctionsManual.cpp, block_diag_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(block_diagonal, (8, 4, 4))
    Cost(allocated=2048, saved=0, backward=256)
    """
    count, size, _ = x.shape
    node = record("BlockDiag", (x,), _block_diagonal_backward)
    return made_by(new(x.tape, (count * size, count * size), x.dtype, op="block_diag"), node)


def _block_diagonal_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [new(grad(gradients).tape, *node.inputs[0], op="stack")]


def solve(a: Sym, b: Sym) -> Sym:
    """Return torch.linalg.solve(a, b, left=False) of batches of matrices [n, s, s]: a new one like b, beside a
    decomposition of a, its pivots and a number for each matrix that says whether it went well.

    Saves a, the decomposition, the pivots and the result; backward solves for b's gradient, one tensor, and makes a
    product and its negative for a's. Source: ATen/native/BatchLinearAlgebra.cpp, linalg_solve_ex;
    torch/csrc/autograd/FunctionsManual.cpp, linalg_solve_backward.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(solve, fp32(8, 4, 4), fp32(8, 4, 4))
    Cost(allocated=1184, saved=1664, backward=1536)
    """
    tape, (count, size, _) = a.tape, a.shape
    node = record("LinalgSolveEx", (a, b), _solve_backward)
    result = new(tape, b.shape, b.dtype, op="linalg_solve_ex")
    lu = new(tape, a.shape, a.dtype, op="linalg_solve_ex")
    pivots = new(tape, (count, size), "int32", op="linalg_solve_ex")
    info = new(tape, (count,), "int32", op="linalg_solve_ex")
    save(node, a, lu, pivots, result)
    del lu, pivots, info  # before the caller's arguments
    return made_by(result, node)


def _solve_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    of_b = like(gradient, gradient.dtype, "linalg_lu_solve")
    product = like(gradient, gradient.dtype, "bmm")
    of_a = like(product, product.dtype, "neg")
    del product
    return [of_a, of_b]
