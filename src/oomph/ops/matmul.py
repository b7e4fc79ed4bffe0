"""Matrix products and the linear layer, with autocast's casts of its arguments."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from oomph.ops.elementwise import add_, cast, grad
from oomph.ops.indexing import contiguous, expand, swapped, transpose, unsqueeze, view
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.selective import selected
from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import Sym, new


def _is_column_major(matrix: Sym) -> bool:
    return yes(matrix.strides[0] == 1) and yes(matrix.strides[1] == matrix.shape[0])


def _column_major(a: Sym, b: Sym) -> tuple[bool, bool]:
    """Tell of both factors whether they lie column by column; of the first only where it wants a gradient."""
    return a.requires_grad and _is_column_major(a), _is_column_major(b)


def _factor_gradient(node: Node, tape: Any, index: int, second: int) -> Sym:
    """Return the gradient of a product's first (0) or second (1) factor: of a column-major one the product's transpose,
    turned back.

    Source: torch/csrc/autograd/FunctionsManual.cpp, mm_mat1_backward and mm_mat2_backward: so that it has the factor's
    own layout.
    """
    (rows, columns), dtype = node.inputs[index]
    if node.context[second]:
        return swapped(new(tape, (columns, rows), dtype, op="mm"), 0, 1)
    return new(tape, (rows, columns), dtype, op="mm")


def mm(a: Sym, b: Sym) -> Sym:
    """Return a [M, K] @ b [K, N]: a new [M, N].

    Saves each factor only if the other wants a gradient: a's is g @ b.t(), b's a.t() @ g. A frozen weight's input is
    not kept. Source: torch tools/autograd/derivatives.yaml (mm), torch/csrc/autograd/FunctionsManual.cpp,
    mm_mat1_backward.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(mm, (4, 256), (256, 512)), cost(mm, (4, 256), frozen(256, 512)).backward
    (Cost(allocated=4096, saved=264192, backward=264192), 2048)
    """
    node = record("Mm", (a, b), _mm_backward)
    if node is not None:
        node.context = _column_major(a, b)
        save(node, b if a.requires_grad else None, a if b.requires_grad else None)  # mat2, self
    (out,) = selected(a.tape, "mm", lambda: (new(a.tape, (a.shape[0], b.shape[1]), a.dtype, op="mm"),))
    return made_by(out, node)


def _mm_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    tape = grad(gradients).tape
    second = _factor_gradient(node, tape, 1, 1) if node.needs(1) else None
    own = _factor_gradient(node, tape, 0, 0) if node.needs(0) else None
    return [own, second]


def times(a: Sym, b: Sym) -> Sym:
    """Return a [M, K] @ b [K, N] as a program writes it: autocast casts b first.

    Saves what mm saves. Source: ATen/native/LinearAlgebra.cpp, _matmul_impl; ATen/autocast_mode.h.

    >>> from oomph.tape.testing import cost
    >>> cost(times, (4, 256), (256, 512))
    Cost(allocated=4096, saved=264192, backward=264192)
    """
    b = autocast_argument(b, cached=True)
    a = autocast_argument(a, cached=True)
    return mm(a, b)


def addmm(bias: Sym, x: Sym, weight: Sym) -> Sym:
    """Return bias [N] + x [M, K] @ weight [K, N]: a new [M, N]. Autocast casts its arguments, the last one first.

    Saves x for the weight's gradient and the weight for x's; the bias' gradient is the incoming one, summed over M when
    it is handed on. Source: torch tools/autograd/derivatives.yaml (addmm).

    >>> from oomph.tape.testing import cost
    >>> cost(addmm, (512,), (4, 256), (256, 512))
    Cost(allocated=4096, saved=264192, backward=265216)
    """
    weight = autocast_argument(weight, cached=True)
    x = autocast_argument(x, cached=True)
    bias = autocast_argument(bias, cached=True)
    node = record("Addmm", (bias, x, weight), _addmm_backward)
    if node is not None:
        node.context = _column_major(x, weight)
        save(node, x if weight.requires_grad else None, weight if x.requires_grad else None)  # mat1, mat2
    shape = (x.shape[0], weight.shape[1])
    (out,) = selected(x.tape, "addmm", lambda: (new(x.tape, shape, x.dtype, op="addmm"),))
    return made_by(out, node)


def _addmm_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    tape = grad(gradients).tape
    own = _factor_gradient(node, tape, 1, 0) if node.needs(1) else None
    weight = _factor_gradient(node, tape, 2, 1) if node.needs(2) else None
    return [gradients[0] if node.needs(0) else None, own, weight]


def bmm(a: Sym, b: Sym) -> Sym:
    """Return the batched product of a [B, M, K] and b [B, K, N]: a new [B, M, N]. Autocast casts b first.

    Saves each factor only if the other wants a gradient. Source: torch tools/autograd/derivatives.yaml (bmm).

    >>> from oomph.tape.testing import cost
    >>> cost(bmm, (8, 4, 64), (8, 64, 4))
    Cost(allocated=256, saved=8192, backward=8192)
    """
    b = autocast_argument(b)
    a = autocast_argument(a)
    node = record("Bmm", (a, b), _bmm_backward)
    if node is not None:
        save(node, b if a.requires_grad else None, a if b.requires_grad else None)
    shape = (a.shape[0], a.shape[1], b.shape[2])
    (out,) = selected(a.tape, "bmm", lambda: (new(a.tape, shape, a.dtype, op="bmm"),))
    return made_by(out, node)


def _bmm_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    tape = grad(gradients).tape
    second = new(tape, *node.inputs[1], op="bmm") if node.needs(1) else None
    own = new(tape, *node.inputs[0], op="bmm") if node.needs(0) else None
    return [own, second]


def bmm_cast(a: Sym, b: Sym) -> Sym:
    """Return torch.bmm of a [B, M, K] and b [B, K, N] as a program calls it: autocast casts b first.

    Saves what bmm saves. Source: ATen/autocast_mode.h, which lists bmm in the lower precision.

    >>> from oomph.tape.testing import cost
    >>> cost(bmm_cast, (8, 4, 64), (8, 64, 4))
    Cost(allocated=256, saved=8192, backward=8192)
    """
    b = autocast_argument(b)
    a = autocast_argument(a)
    return bmm(a, b)


def baddbmm(bias: Sym, a: Sym, b: Sym) -> Sym:
    """Return bias [B, 1, N] + scale · a [B, M, K] @ b [B, K, N]: a new [B, M, N]. Autocast casts the last
    argument first.

    Saves both factors; each gradient is a product that is scaled afterwards, two tensors of its size. Source: torch
    tools/autograd/derivatives.yaml (baddbmm), maybe_multiply in FunctionsManual.cpp.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(baddbmm, frozen(8, 1, 4), (8, 4, 64), (8, 64, 4))
    Cost(allocated=256, saved=8192, backward=16384)
    """
    b = autocast_argument(b)
    a = autocast_argument(a)
    bias = autocast_argument(bias)
    node = record("Baddbmm", (bias, a, b), _baddbmm_backward)
    save(node, a, b)
    return made_by(new(a.tape, (a.shape[0], a.shape[1], b.shape[2]), a.dtype, op="baddbmm"), node)


def _baddbmm_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    tape = grad(gradients).tape
    scaled: Gradients = [None]
    for shape, dtype in node.inputs[1:]:
        product_of = new(tape, shape, dtype, op="bmm")
        scaled.append(new(tape, shape, dtype, op="mul"))
        del product_of
    return scaled


def matmul(x: Sym, y: Sym) -> Sym:
    """Return x [.., M, K] @ y [.., K, N]: both are folded to as many matrices as the axes before have places, a copy
    where strides forbid a view, and where x or y, as [A, 1, K, N] or [1, B, K, N], is the same for several. Autocast
    casts y first.

    Saves what bmm saves, copies included. Source: ATen/native/LinearAlgebra.cpp, _matmul_impl.

    >>> from oomph.tape.testing import cost
    >>> cost(matmul, (2, 8, 4, 64), (2, 8, 64, 4))
    Cost(allocated=512, saved=16384, backward=16384)
    """
    y = autocast_argument(y)
    x = autocast_argument(x)
    sides = list(zip(x.shape[:-2], y.shape[:-2], strict=True))
    batch = tuple(own if yes(own == other) or yes(other == 1) else other for own, other in sides)
    matrices = product(batch)
    left = view(_for_each(x, batch), (matrices, *x.shape[-2:]))
    right = view(_for_each(y, batch), (matrices, *y.shape[-2:]))
    out = bmm(left, right)
    del right, left  # C++ locals die in reverse order
    return view(out, (*batch, x.shape[-2], y.shape[-1]))


def _for_each(x: Sym, batch: Sequence[Size]) -> Sym:
    """Return x [.., M, K] with these axes before: a view of it where they are not its own."""
    alike = all(yes(own == wanted) for own, wanted in zip(x.shape[:-2], batch, strict=True))
    return x if alike else expand(x, (*batch, *x.shape[-2:]))


def matrix_times(weight: Sym, x: Sym) -> Sym:
    """Return weight [O, K] @ x [B, K, S]: a new [B, O, S]. Autocast casts x first.

    A weight that trains is multiplied from the right, with all of the batch as one matrix, and the result is turned and
    copied, which takes it twice for a moment, as is an x that does not lie as [B, S, K]; a frozen one is repeated for
    each of the batch, without a copy. Saves x for the weight's gradient and the weight for x's. Source:
    ATen/native/LinearAlgebra.cpp, _matmul_impl, should_fold.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(matrix_times, (32, 8), (2, 8, 64)).allocated, cost(matrix_times, frozen(32, 8), (2, 8, 64)).allocated
    (18432, 8192)
    """
    folds = weight.requires_grad
    x = autocast_argument(x, cached=True)
    weight = autocast_argument(weight, cached=True)
    if not folds:
        return bmm(expand(unsqueeze(weight, 0), (x.shape[0], *weight.shape)), x)
    batch, inner, length = x.shape
    rows = view(transpose(x, 1, 2), (batch * length, inner))
    out = view(mm(rows, transpose(weight, 0, 1)), (batch, length, weight.shape[0]))
    return contiguous(transpose(out, 1, 2))


def autocast_argument(x: Sym, cached: bool = False) -> Sym:
    """Return an fp32 argument in autocast's dtype; anything else, and all without autocast, as it is.

    Casts of leaves that want gradients are `cached`: they live until the autocast context ends, once per weight, and
    want gradients even if those are off when they are made. What a
    reentrant checkpoint hands to a layer when it runs again is such a leaf too. Other casts live as long as the
    operation's node needs them. Source: ATen/autocast_mode.cpp, cached_cast.

    >>> from oomph.tape.testing import cost, fp32
    >>> from oomph.tape.tape import Tape, autocast
    >>> tape = Tape()
    >>> with autocast(tape, "bf16"):
    ...     cost(autocast_argument, fp32(4, 256), tape=tape)
    Cost(allocated=2048, saved=0, backward=4096)
    """
    context = x.tape.autocast
    if context is None or x.tape.autocast_paused or x.dtype != "fp32":
        return x
    if not (cached and x.requires_grad and x.is_leaf):
        return cast(x, context.dtype)
    known = context.casts.get(id(x))
    if known is None or known[0]() is not x:
        with x.tape.enable_grad():
            known = context.casts[id(x)] = weakref.ref(x), cast(x, context.dtype)
        x.tape.note(known[1], "autocast copy")
    return known[1]


def linear_unfused(x: Sym, weight: Sym, bias: Sym | None = None) -> Sym:
    """Return x @ weight.T + bias, as Falcon writes it: x [.., K] with weight [N, K] and bias [N] to [.., N].

    Saves what linear saves, but under autocast a cast of the weight for each use: the cache holds weights, not views of
    them. The bias makes one tensor more, in fp32 under autocast. Source: transformers 5.23,
    models/falcon/modeling_falcon.py, FalconLinear; ATen/autocast_mode.cpp, cached_cast.

    >>> from oomph.tape.testing import cost
    >>> cost(linear_unfused, (2, 4, 256), (512, 256), (512,))
    Cost(allocated=16384, saved=266240, backward=267264)
    """
    out = times_rows(x, transpose(weight, 0, 1))
    return out if bias is None else out + bias


def times_rows(x: Sym, matrix: Sym) -> Sym:
    """Return x [.., K] @ matrix [K, N] to [.., N] as a program writes it: autocast casts both, the matrix first, whose
    cast is kept no longer than its gradient needs it. A matrix that does not train is repeated, without a copy, for an
    x that cannot be flattened without one.

    Saves what mm or bmm saves. Source: ATen/native/LinearAlgebra.cpp, _matmul_impl.

    >>> from oomph.tape.testing import cost
    >>> cost(times_rows, (2, 4, 256), (256, 512))
    Cost(allocated=8192, saved=266240, backward=266240)
    """
    trains = matrix.requires_grad
    matrix = autocast_argument(matrix)
    x = autocast_argument(x)
    if trains or len(x.shape) == len(matrix.shape) or _folds(x):
        out = mm(view(x, (product(x.shape[:-1]), x.shape[-1])), matrix)
    else:
        matrices = product(x.shape[:-2])
        out = bmm(view(x, (matrices, *x.shape[-2:])), _repeated(matrix, matrices))
    return view(out, (*x.shape[:-1], matrix.shape[1]))


def _folds(x: Sym) -> bool:
    """Tell whether matmul makes one matrix of x also for a frozen weight; else it repeats the weight, without a copy.

    Source: ATen/native/LinearAlgebra.cpp, should_fold.
    """
    steps = zip(x.shape[1:-1], x.strides[:-2], x.strides[1:-1], strict=True)
    return all(yes(outer == inner * size) for size, outer, inner in steps)


def _repeated(matrix: Sym, count: Size) -> Sym:
    """Return a matrix as one of each of a batch: a view."""
    return Sym((count, *matrix.shape), matrix.dtype, (0, *matrix.strides), matrix.storage)


def linear(x: Sym, weight: Sym, bias: Sym | None = None) -> Sym:
    """Return F.linear: x [.., K] with weight [N, K] and bias [N] to [.., N].

    Saves x for the weight's gradient and the weight for x's; under autocast the casts. Under autocast bias, weight,
    input are cast in that order (C++ arguments are evaluated right to left). Without a bias the weight is transposed
    before x is flattened, with one after: visible in the order of nodes. To an x with gaps the
    bias is added afterwards: in place, but not under a trace. Source: ATen/native/Linear.cpp.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(linear, (2, 4, 256), (512, 256)), cost(linear, (2, 4, 256), frozen(512, 256))
    (Cost(allocated=8192, saved=266240, backward=266240), Cost(allocated=8192, saved=262144, backward=4096))
    """
    trains = weight.requires_grad  # whether gradients are recorded does not matter
    if x.tape.autocast is not None:
        bias = autocast_argument(bias, cached=True) if bias is not None else None
        weight = autocast_argument(weight, cached=True)
        x = autocast_argument(x, cached=True)
    if len(x.shape) == len(weight.shape):  # a matrix, which is not flattened
        turned = transpose(weight, 0, 1)
        return mm(x, turned) if bias is None else addmm(bias, x, turned)
    flat: tuple[Size, Size] = (product(x.shape[:-1]), x.shape[-1])
    if bias is None:
        return _product(x, weight, flat, trains)
    if not x.is_contiguous():
        out = _product(x, weight, flat, trains)
        return out + bias if x.tape.on == "trace" else add_(out, bias)
    rows = view(x, flat)
    return view(addmm(bias, rows, transpose(weight, 0, 1)), (*x.shape[:-1], weight.shape[0]))


def _product(x: Sym, weight: Sym, flat: tuple[Size, Size], trains: bool) -> Sym:
    """Return x [.., K], as a matrix `flat`, @ weight.T; a weight that does not train may be repeated instead."""
    turned = transpose(weight, 0, 1)
    if not (trains or _folds(x)):
        batch: tuple[Size, ...] = (product(x.shape[:-2]), *x.shape[-2:])
        out = bmm(view(x, batch), _repeated(turned, batch[0]))
    else:
        out = mm(view(x, flat), turned)
    return view(out, (*x.shape[:-1], weight.shape[0]))
