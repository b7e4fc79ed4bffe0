"""Views and copies: transpose, view, slice, split, expand, cat. A view shares its base's storage and pins it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oomph.ops.elementwise import grad, pass_through
from oomph.tape.autograd import Gradients, Node, like, made_by, record, sum_to
from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import WIDTH, Sym, new, view_of, view_strides


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
    return made_by(Sym(shape, x.dtype, strides, x.storage), node)


def _reshape_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [reshaped(grad(gradients), node.inputs[0][0])]


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
    return made_by(Sym(shape, x.dtype, strides, x.storage), node)


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
    return made_by(Sym(shape, x.dtype, strides, x.storage), node)


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


def slice_axis(x: Sym, axis: int, start: Size, stop: Size) -> Sym:
    """Return x[..., start:stop, ...]: a view, which keeps the whole of x alive.

    Saves nothing; backward allocates the whole input again, zeros with the gradient copied in. Source:
    ATen/native/TensorShape.cpp, slice_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: slice_axis(x, -1, 0, 128), (4, 256))
    Cost(allocated=0, saved=0, backward=2048)
    """
    node = record("Slice", (x,), _whole_backward)
    shape = list(x.shape)
    shape[axis] = stop - start
    return made_by(Sym(shape, x.dtype, x.strides, x.storage), node)


def _whole_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = next(one for one in gradients if one is not None)
    return [new(gradient.tape, node.inputs[0][0], gradient.dtype, op=f"{node.name}_backward")]


def every_other(x: Sym, start: int) -> Sym:
    """Return x[..., start::2]: a view, which keeps the whole of x alive.

    Saves nothing; backward allocates the whole input again, zeros with the gradient copied in. Source:
    ATen/native/TensorShape.cpp, slice_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: every_other(x, 1), (4, 256))
    Cost(allocated=0, saved=0, backward=2048)
    """
    node = record("Slice", (x,), _whole_backward)
    shape = (*x.shape[:-1], x.shape[-1] // 2)
    return made_by(Sym(shape, x.dtype, (*x.strides[:-1], x.strides[-1] * 2), x.storage), node)


def split_sizes(x: Sym, sizes: Sequence[Size]) -> tuple[Sym, ...]:
    """Return x cut along the last axis into views of these sizes; each keeps the whole of x alive.

    Saves nothing; backward joins the gradients to one tensor of x's size. Source:
    torch/csrc/autograd/FunctionsManual.cpp, split_with_sizes_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: split_sizes(x, (192, 64)), (4, 256))
    Cost(allocated=0, saved=0, backward=2048)
    """
    node = record("SplitWithSizes", (x,), _whole_backward, outputs=len(sizes))
    views = [Sym((*x.shape[:-1], size), x.dtype, x.strides, x.storage) for size in sizes]
    return tuple(made_by(one, node, at) for at, one in enumerate(views))


def copy_into_slice(x: Sym, source: Sym) -> Sym:
    """Return x after x[..., a:b].copy_(source): x's own bytes with a new history. Where the slice lies changes no byte.

    Saves nothing; backward copies the whole gradient to take the slice out of it, as a copy too; where x has a history
    that copy goes on, the slice zeroed. Source: torch/csrc/autograd/functions/tensor.cpp, CopySlices::apply,
    CopyBackwards::apply.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(copy_into_slice, frozen(4, 256), (4, 64)), cost(copy_into_slice, (4, 256), (4, 64)).backward
    (Cost(allocated=0, saved=0, backward=2560), 3072)
    """
    node = record("CopySlices", (x, source), _copy_slices_backward)
    return made_by(x.detach(), node)


def _copy_slices_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, ((shape, _), (part, dtype)) = grad(gradients), node.inputs
    whole = new(gradient.tape, shape, gradient.dtype, op="new_empty_strided")
    own = new(gradient.tape, part, gradient.dtype, op="clone")
    zeros = new(gradient.tape, part, gradient.dtype, op="zeros_like") if node.needs(0) else None
    if own.dtype != dtype and node.needs(1):
        own = like(own, dtype)
    del zeros
    return [whole if node.needs(0) else None, own if node.needs(1) else None]


def split(x: Sym, size: Size, parts: int) -> tuple[Sym, ...]:
    """Return x cut along the last axis into `parts` views of `size`; each keeps the whole of x alive.

    Saves nothing; backward joins the gradients to one tensor of x's size. Source:
    torch/csrc/autograd/FunctionsManual.cpp, split_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: split(x, 64, 4), (4, 256))
    Cost(allocated=0, saved=0, backward=2048)
    """
    node = record("Split", (x,), _whole_backward, outputs=parts)
    shape = (*x.shape[:-1], size)
    return tuple(made_by(Sym(shape, x.dtype, x.strides, x.storage), node, at) for at in range(parts))


def cat(tensors: Sequence[Sym], axis: int, dtype: str | None = None) -> Sym:
    """Return tensors one behind the other on an axis, a new contiguous tensor: a cache [B, K, S, D] and one token.

    `dtype` is that of an empty tensor before them, if it is wider than theirs; the widest of theirs is taken.

    Saves nothing, sizes do: backward hands out views of the gradient. Source: ATen/native/cuda/Shape.cu, cat;
    torch/csrc/autograd/FunctionsManual.cpp, cat_tensors_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda a, b: cat([a, b], -1), (4, 128), (4, 128))
    Cost(allocated=2048, saved=0, backward=0)
    """
    node = record("Cat", tensors, _cat_backward)
    shape = list(tensors[0].shape)
    for size in [more.shape[axis] for more in tensors[1:]]:  # no name holds a tensor longer than its list does
        shape[axis] = shape[axis] + size
    dtype = dtype or max([one.dtype for one in tensors], key=WIDTH.__getitem__)
    return made_by(new(tensors[0].tape, shape, dtype, op="cat"), node)


def _cat_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [
        view_of(gradient, shape, gradient.strides) if node.needs(at) else None
        for at, (shape, _) in enumerate(node.inputs)
    ]


def pad_last(x: Sym, missing: Size) -> Sym:
    """Return F.pad(x, (0, missing)): a contiguous copy of x [.., D], [.., D + missing].

    Saves nothing; backward copies what was there out of the gradient, one tensor of x's size. Source:
    ATen/native/PadNd.cpp, constant_pad_nd; torch/csrc/autograd/FunctionsManual.cpp, constant_pad_nd_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: pad_last(x, 4), (4, 100))
    Cost(allocated=832, saved=0, backward=800)
    """
    node = record("ConstantPadNd", (x,), _pad_backward)
    return made_by(new(x.tape, (*x.shape[:-1], x.shape[-1] + missing), x.dtype, op="constant_pad_nd"), node)


def _pad_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    shape = node.inputs[0][0]
    return [like(view_of(gradient, shape, gradient.strides), gradient.dtype, "constant_pad_nd")]


def rows(x: Sym) -> Size:
    """Return how many vectors of the last axis a tensor holds: the tokens of [B, S, H]. Allocates nothing.

    Source: ATen/native/Linear.cpp, _flatten_nd_linear.

    >>> from oomph.tape.testing import cost, frozen
    >>> from oomph.tape import Tape
    >>> rows(Tape().empty((2, 3, 4), "bf16")), cost(rows, frozen(2, 3, 4)).allocated
    (6, 0)
    """
    return product(x.shape[:-1])
