"""Tensors put together: concatenation, stacking, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oomph.ops.elementwise import grad
from oomph.tape.autograd import Gradients, Node, like, made_by, record
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import WIDTH, Sym, channels_last, is_channels_last, new, view_of


def stack_last(tensors: Sequence[Sym], many: Size | None = None) -> Sym:
    """Return torch.stack(tensors, -1): new and contiguous, with their number as a last axis, in the widest dtype.

    `many` is their number where they stand for more than they are, as after loops that are cut short (tape/turns.py).

    Saves nothing; backward hands out views of the gradient. Source: ATen/native/TensorShape.cpp, stack;
    torch/csrc/autograd/FunctionsManual.cpp, stack_tensors_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda a, b: stack_last([a, b]), (4, 128), (4, 128))
    Cost(allocated=2048, saved=0, backward=0)
    """
    return _stacked(tensors, (*tensors[0].shape, len(tensors) if many is None else many), slice(0, -1))


def stack_first(tensors: Sequence[Sym]) -> Sym:
    """Return torch.stack(tensors): the same with their number as a first axis.

    Saves nothing; backward hands out views of the gradient. Source: as of stack_last.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda a, b: stack_first([a, b]), (4, 128), (4, 128))
    Cost(allocated=2048, saved=0, backward=0)
    """
    return _stacked(tensors, (len(tensors), *tensors[0].shape), slice(1, None))


def _stacked(tensors: Sequence[Sym], shape: tuple[Size, ...], of_each: slice) -> Sym:
    """Return a stack of a shape; `of_each` are the axes that each tensor has of it."""

    def backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
        gradient = grad(gradients)
        return [
            view_of(gradient, each, gradient.strides[of_each]) if node.needs(at) else None
            for at, (each, _) in enumerate(node.inputs)
        ]

    node = record("Stack", tensors, backward)
    dtype = max([one.dtype for one in tensors], key=WIDTH.__getitem__)
    return made_by(new(tensors[0].tape, shape, dtype, op="stack"), node)


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


def pad_axis(x: Sym, axis: int, before: Size, after: Size) -> Sym:
    """Return x with zeros before and after an axis's places: a new tensor, contiguous, or with its second axis
    innermost where x [B, C, H, W] lies so. With none to add it is a copy in x's layout.

    Saves nothing; backward copies what was there out of the gradient, one tensor of x's size. Source:
    ATen/native/PadNd.cpp, constant_pad_nd; torch/csrc/autograd/FunctionsManual.cpp, constant_pad_nd_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: pad_axis(x, 1, 0, 28), (2, 100, 8))
    Cost(allocated=4096, saved=0, backward=3200)
    """
    node = record("ConstantPadNd", (x,), _pad_backward)
    if yes(before == 0) and yes(after == 0):
        return made_by(like(x, x.dtype, "clone"), node)
    shape = list(x.shape)
    shape[axis] = shape[axis] + before + after
    strides = channels_last(shape) if is_channels_last(x) else None
    return made_by(new(x.tape, shape, x.dtype, strides, "constant_pad_nd"), node)
