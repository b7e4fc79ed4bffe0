"""Views and copies of whole tensors: shapes, transposes, expansion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oomph.ops.elementwise import add_, grad, pass_through
from oomph.tape.autograd import Gradients, Node, like, made_by, record, sum_to
from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import Sym, new, row_major, view_of, view_strides


def reshaped(x: Sym, shape: Sequence[Size]) -> Sym:
    """Return x in another shape without history: a view if strides allow, else a contiguous copy of x's bytes.

    Source: ATen/native/TensorShape.cpp, reshape.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x: reshaped(x, (1024,)), frozen(4, 256)).allocated
    0
    >>> cost(lambda x: reshaped(swapped(x, 0, 1), (1024,)), frozen(4, 256)).allocated
    2048
    """
    strides = view_strides(x.shape, x.strides, shape)
    return new(x.tape, shape, x.dtype, op="clone") if strides is None else view_of(x, shape, strides)


def view(x: Sym, shape: Sequence[Size]) -> Sym:
    """Return x.reshape(shape): a view where strides allow, else a contiguous copy.

    Saves nothing; a view keeps the whole storage of x alive as long as it lives. Backward reshapes the gradient, again
    a view where that can be. Source: ATen/native/TensorShape.cpp, reshape.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: view(x, (1024,)), (4, 256)), cost(lambda x: view(transpose(x, 0, 1), (1024,)), (4, 256))
    (Cost(allocated=0, saved=0, backward=0), Cost(allocated=2048, saved=0, backward=0))
    """
    node = record("View", (x,), _reshape_backward)
    strides = view_strides(x.shape, x.strides, shape)
    if strides is None:
        return made_by(new(x.tape, shape, x.dtype, op="clone"), node)
    return made_by(Sym(shape, x.dtype, strides, x.storage, x.place), node)


def _reshape_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [reshaped(grad(gradients), node.inputs[0][0])]


def add_to_view(x: Sym, other: Sym, base_shape: Sequence[Size] = ()) -> Sym:
    """Return x += other, written into x, a view that reshape made of a result: x with its new history. A tensor that is
    no such view is left to add_; of one without a history the caller says of what `base_shape` it is a view.

    Saves nothing, but autograd does not know that the view is all of its base. Backward writes the gradient into zeros
    as large as the base (not so with fake tensors, which replay the view), copies it, and the view of that once more,
    which is the gradient of `other`. Source: torch/csrc/autograd/variable.cpp, VariableHooks::grad_fn;
    functions/tensor.cpp, CopySlices; FunctionsManual.cpp, as_strided_backward.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x, y: add_to_view(view(x, (2, 2, 256)), y), (4, 256), frozen(256))
    Cost(allocated=0, saved=0, backward=6144)
    """
    if x.node is not None:
        base_shape = x.node.inputs[0][0] if x.node.name == "View" else ()
    if not base_shape:
        return add_(x, other)
    base = Sym(base_shape, x.dtype, row_major(base_shape), x.storage)
    if x.node is not None:
        base.requires_grad, (base.node, base.output) = True, x.node.edges[0]
    base = made_by(base.detach(), record("CopySlices", (base, other), _copy_slices_backward))
    if x.tape.on == "trace":
        return view(base, x.shape)
    return made_by(view_of(base, x.shape, x.strides), record("AsStrided", (base,), _as_strided_backward))


def _copy_slices_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    (shape, dtype), gradient = node.inputs[0], grad(gradients)
    result = new(gradient.tape, shape, dtype, op="new_empty_strided")
    slice_of = new(gradient.tape, shape, dtype, op="clone")
    return [result, reshaped(slice_of, node.inputs[1][0]) if node.needs(1) else None]


def _as_strided_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    shape, dtype = node.inputs[0]
    return [new(grad(gradients).tape, shape, dtype, op="new_zeros")]


def unsqueeze(x: Sym, axis: int) -> Sym:
    """Return x with an axis of length 1 at `axis`: a view. Nothing is allocated or saved, forward or backward.

    Source: ATen/native/TensorShape.cpp, unsqueeze.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: unsqueeze(x, 1), (4, 256))
    Cost(allocated=0, saved=0, backward=0)
    """
    node = record("Unsqueeze", (x,), _reshape_backward)
    stride = x.shape[axis] * x.strides[axis] if axis < len(x.shape) else 1
    shape, strides = list(x.shape), list(x.strides)
    shape.insert(axis, 1)
    strides.insert(axis, stride)
    return made_by(Sym(shape, x.dtype, strides, x.storage, x.place), node)


def swapped(x: Sym, a: int, b: int) -> Sym:
    """Return x with two axes exchanged, without history: a view, nothing allocated.

    Source: ATen/native/TensorShape.cpp, transpose.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x: swapped(x, 0, 1), frozen(4, 256))
    Cost(allocated=0, saved=0, backward=0)
    """
    shape, strides = list(x.shape), list(x.strides)
    shape[a], shape[b] = shape[b], shape[a]
    strides[a], strides[b] = strides[b], strides[a]
    return view_of(x, shape, strides)


def transpose(x: Sym, a: int, b: int) -> Sym:
    """Return x.transpose(a, b): a view. Backward transposes the gradient back, a view too.

    Source: ATen/native/TensorShape.cpp, transpose; torch tools/autograd/derivatives.yaml (transpose.int).

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: transpose(x, 0, 1), (4, 256))
    Cost(allocated=0, saved=0, backward=0)
    """
    node = record("Transpose", (x,), _transpose_backward)
    if node is not None:
        node.context = (a, b)
    return made_by(swapped(x, a, b), node)


def _transpose_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [swapped(grad(gradients), *node.context)]


def permute(x: Sym, order: Sequence[int]) -> Sym:
    """Return x.permute(order): a view. Backward permutes the gradient back, a view too.

    Source: ATen/native/TensorShape.cpp, permute; torch tools/autograd/derivatives.yaml (permute).

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: permute(x, (2, 0, 1)), (4, 8, 256))
    Cost(allocated=0, saved=0, backward=0)
    """
    node = record("Permute", (x,), _permute_backward)
    if node is not None:
        node.context = [list(order).index(axis) for axis in range(len(order))]
    return made_by(_permuted(x, order), node)


def _permuted(x: Sym, order: Sequence[int]) -> Sym:
    return view_of(x, [x.shape[axis] for axis in order], [x.strides[axis] for axis in order])


def _permute_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [_permuted(grad(gradients), node.context)]


def expand(x: Sym, shape: Sequence[Size]) -> Sym:
    """Return x broadcast to a shape of the same rank: a view with stride 0 where an axis of 1 grows.

    Saves nothing; backward sums the gradient over the grown axes, one tensor of x's size. Source:
    ATen/native/TensorShape.cpp, expand; torch tools/autograd/derivatives.yaml (expand).

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: expand(x, (4, 256)), (1, 256))
    Cost(allocated=0, saved=0, backward=512)
    """
    node = record("Expand", (x,), _expand_backward)
    strides = [
        0 if yes(own == 1) and not yes(wanted == 1) else stride
        for own, wanted, stride in zip(x.shape, shape, x.strides, strict=True)
    ]
    return made_by(Sym(shape, x.dtype, strides, x.storage, x.place), node)


def _expand_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [sum_to(grad(gradients), node.inputs[0][0])]


def repeat_rows(x: Sym, times: Size) -> Sym:
    """Return x.repeat_interleave(times, dim=0): each row of x [T, H] `times` times, always a new [T·times, H].

    Saves nothing; backward sums each group's gradients to one tensor of x's size. Source: ATen/native/Repeat.cpp,
    repeat_interleave_symint.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: repeat_rows(x, 2), (4, 256))
    Cost(allocated=4096, saved=0, backward=2048)
    """
    rows, width = x.shape
    spread = expand(unsqueeze(x, 1), (rows, times, width))
    node = record("Clone", (spread,), pass_through)
    copy = made_by(new(x.tape, spread.shape, x.dtype, op="clone"), node)
    del spread
    return view(copy, (rows * times, width))


def repeat_first(x: Sym, times: Size) -> Sym:
    """Return x.repeat(times, 1, ...) of x [1, ...]: a new [times, ...], also for once.

    Saves nothing; backward sums to one tensor of x's size, or hands the gradient on. Source: ATen/native/
    TensorShape.cpp, repeat; torch/csrc/autograd/FunctionsManual.cpp, repeat_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: repeat_first(x, 4), (1, 256))
    Cost(allocated=2048, saved=0, backward=512)
    """
    node = record("Repeat", (x,), pass_through)
    return made_by(new(x.tape, (times, *x.shape[1:]), x.dtype, op="repeat"), node)


def repeat_heads(x: Sym, times: Size) -> Sym:
    """Return x.repeat_interleave(times, dim=1) of keys or values [B, K, T, D]: a new [B, K * times, T, D], x itself for
    once.

    Saves nothing; backward sums each group's gradients to one tensor of x's size. Source: ATen/native/Repeat.cpp,
    repeat_interleave_symint.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: repeat_heads(x, 4), (1, 2, 64, 128))
    Cost(allocated=131072, saved=0, backward=32768)
    """
    batch, heads, length, size = x.shape
    if yes(times == 1):
        return x
    spread = expand(unsqueeze(x, 2), (batch, heads, times, length, size))
    node = record("Clone", (spread,), pass_through)
    copy = made_by(new(x.tape, spread.shape, x.dtype, op="clone"), node)
    return view(copy, (batch, heads * times, length, size))


def repeat_each(x: Sym, axis: int, times: Size) -> Sym:
    """Return x.repeat_interleave(times, axis): each place of an axis `times` times, always a new tensor.

    Saves nothing; backward sums each group's gradients to one tensor of x's size. Source: ATen/native/Repeat.cpp,
    repeat_interleave_symint.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: repeat_each(x, 1, 4), (2, 8, 16))
    Cost(allocated=2048, saved=0, backward=512)
    """
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    spread = expand(unsqueeze(x, axis + 1), (*before, size, times, *after))
    node = record("Clone", (spread,), pass_through)
    copy = made_by(new(x.tape, spread.shape, x.dtype, op="clone"), node)
    return view(copy, (*before, size * times, *after))


def contiguous(x: Sym) -> Sym:
    """Return x.contiguous(): x itself if it is, else a copy.

    Saves nothing: the gradient passes through. Source: ATen/native/TensorProperties.cpp, contiguous.

    >>> from oomph.tape.testing import cost
    >>> cost(contiguous, (4, 256)).allocated, cost(lambda x: contiguous(transpose(x, 0, 1)), (4, 256))
    (0, Cost(allocated=2048, saved=0, backward=0))
    """
    if x.is_contiguous():
        return x
    node = record("Clone", (x,), pass_through)
    return made_by(new(x.tape, x.shape, x.dtype, op="clone"), node)


def clone(x: Sym) -> Sym:
    """Return x.clone(): a copy in x's layout where that is dense.

    Saves nothing: the gradient passes through. Source: ATen/native/TensorFactories.cpp, clone.

    >>> from oomph.tape.testing import cost
    >>> cost(clone, (4, 256))
    Cost(allocated=2048, saved=0, backward=0)
    """
    node = record("Clone", (x,), pass_through)
    return made_by(like(x, x.dtype, "clone"), node)


def rows(x: Sym) -> Size:
    """Return how many vectors of the last axis a tensor holds: the tokens of [B, S, H]. Allocates nothing.

    Source: ATen/native/Linear.cpp, _flatten_nd_linear.

    >>> from oomph.tape.testing import cost, frozen
    >>> from oomph.tape import Tape
    >>> rows(Tape().empty((2, 3, 4), "bf16")), cost(rows, frozen(2, 3, 4)).allocated
    (6, 0)
    """
    return product(x.shape[:-1])
