"""Triangular matrices: masks of one, and systems of equations with them."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad, result, unary
from oomph.ops.indexing import reshaped, swapped
from oomph.ops.kernel import run
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import Sym, new, row_major
from oomph.tape.tape import Tape
from oomph.workspaces import OUTPUTS, Buffer, Step

# Up to so many systems of at least such a size are solved one by one, without arrays of pointers to them.
FEW_SYSTEMS, LARGE_SYSTEM = 8, 64


def strict_triangle(tape: Tape, length: Size) -> Sym:
    """Return torch.ones(length, length, dtype=bool).triu(1): booleans [L, L], beside the ones for a moment.

    Source: ATen/native/cuda/TriangularOps.cu.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x: strict_triangle(x.tape, 16), frozen(1)).allocated
    512
    """
    ones = tape.empty((length, length), "bool", op="ones")
    return unary(ones, "triu")


def solve_triangular(a: Sym, b: Sym) -> Sym:
    """Return torch.linalg.solve_triangular(a, b, upper=False, unitriangular=True): X of a X = b, for a [.., C, C] that
    lies in order, b [.., C, D]. X is laid out column by column.

    Saves a and X. Backward solves with a transposed for b's gradient G, and for a's three tensors of a's size: a
    product with X, its negative, the part below the diagonal. Under autocast nothing is cast; the product is. On a GPU
    many systems take two int64 of pointers each. Source: ATen/native/BatchLinearAlgebra.cpp, linalg_solve_triangular;
    cuda/BatchLinearAlgebra.cpp, triangular_solve_kernel; torch/csrc/autograd/FunctionsManual.cpp,
    linalg_solve_triangular_backward.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(solve_triangular, fp32(2, 64, 64), fp32(2, 64, 128))
    Cost(allocated=65536, saved=98304, backward=163840)
    """
    node = record("LinalgSolveTriangular", (a, b), _solve_triangular_backward)
    save(node, a)
    out = _solved(a, b)
    save(node, out)
    return made_by(out, node)


def _solved(a: Sym, b: Sym) -> Sym:
    rows = b.shape[-2]
    strides = (*row_major(b.shape)[:-2], 1, rows)
    systems = product(b.shape[:-2])
    steps: tuple[Step, ...] = (OUTPUTS,)
    if not (yes(systems <= FEW_SYSTEMS) and yes(rows >= LARGE_SYSTEM)):
        steps = (OUTPUTS, *(Buffer(f"pointers of {name}", (systems,), "int64") for name in ("a", "b")))
    return run(b.tape, steps, lambda: new(b.tape, b.shape, b.dtype, strides, "linalg_solve_triangular"))


def _solve_triangular_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    a, solution = saved
    below = swapped(a, -2, -1)
    own = _solved(below, grad(gradients))
    if not node.needs(0):
        return [None, own]
    shape, dtype = node.inputs[0]
    matmul = _product(own, swapped(solution, -2, -1))
    negative = result("neg", shape, dtype, matmul)
    del matmul
    lower = result("tril", shape, dtype, negative)
    del negative, below, a, solution
    return [lower, own if node.needs(1) else None]


def _product(x: Sym, y: Sym) -> Sym:
    """Return x @ y without history, folded to matrices as matmul does it."""
    systems = product(x.shape[:-2])
    left = reshaped(x, (systems, *x.shape[-2:]))
    right = reshaped(y, (systems, *y.shape[-2:]))
    out = new(x.tape, (systems, x.shape[-2], y.shape[-1]), x.dtype, op="bmm")
    del right, left
    return reshaped(out, (*x.shape[:-1], y.shape[-1]))
