"""Parts of tensors: slices, picked places, splits. A view keeps the whole of what it is a part of alive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from oomph.ops.elementwise import grad, pass_through
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sizes import Size, number, yes
from oomph.tape.sym import Place, Sym, new


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
    return made_by(Sym(shape, x.dtype, x.strides, x.storage, _place(x, axis, start)), node)


def _whole_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = next(one for one in gradients if one is not None)
    return [new(gradient.tape, node.inputs[0][0], gradient.dtype, op=f"{node.name}_backward")]


def select(x: Sym, axis: int, at: Size = 0) -> Sym:
    """Return x[..., at, ...], one place of an axis, which is gone: a view, which keeps the whole of x alive.

    Saves nothing; backward allocates the whole input again, zeros with the gradient copied in. Source:
    ATen/native/TensorShape.cpp, select_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: select(x, 1), (4, 3, 256))
    Cost(allocated=0, saved=0, backward=6144)
    """
    node = record("Select", (x,), _whole_backward)
    shape, strides = list(x.shape), list(x.strides)
    del shape[axis], strides[axis]
    return made_by(Sym(shape, x.dtype, strides, x.storage, _place(x, axis, at)), node)


def picked(x: Sym, axis: int) -> Sym:
    """Return x[..., [i], ...], one place of an axis, which stays: a list is an index tensor, so the result is a copy.

    Saves the index, one int64; backward allocates the whole input again, zeros with the gradient added in (under a
    trace twice: not in place). Source:
    torch/csrc/autograd/python_variable_indexing.cpp, sequenceToVariable; FunctionsManual.cpp, index_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: picked(x, 1), (4, 3, 256))
    Cost(allocated=2056, saved=8, backward=6144)
    """
    index = x.tape.empty((1,), "int64", op="lift_fresh")
    node = record("Index", (x,), _index_backward)
    save(node, index)
    shape = list(x.shape)
    shape[axis] = 1
    return made_by(new(x.tape, shape, x.dtype, op="index"), node)


def each_twice(x: Sym) -> Sym:
    """Return torch.repeat_interleave(x[:, :, None, :], 2, 3) of x [P, S, R/2], without history: [P, S, 1, R], new.

    Source: ATen/native/Repeat.cpp, repeat_interleave.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(each_twice, frozen(1, 8, 16)).allocated
    512
    """
    rows, length, half = x.shape
    return new(x.tape, (rows, length, 1, 2 * half), x.dtype, op="clone")


def index(x: Sym, places: tuple[Sym, ...]) -> Sym:
    """Return x[places]: x [B, .., L] at as many int64 tensors [B] as axes are picked from: a new [B, L].

    Saves the places; backward allocates the whole input again, zeros with the gradient added in (under a trace twice:
    not in place). Source: ATen/native/TensorAdvancedIndexing.cpp; FunctionsManual.cpp, index_backward.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(lambda x, a, b: index(x, (a, b)), (4, 16, 3), ids(4), ids(4))
    Cost(allocated=24, saved=64, backward=384)
    """
    node = record("Index", (x,), _index_backward)
    save(node, *places)
    shape = (places[0].shape[0], *x.shape[len(places) :])
    return made_by(new(x.tape, shape, x.dtype, op="index"), node)


def as_int32(ids: Sym) -> Sym:
    """Return (ids != number).to(torch.int32): booleans for a moment, then int32. Nothing is saved.

    Source: transformers 5.23, modeling_layers.py, GenericForSequenceClassification.forward.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(as_int32, ids(2, 8)).allocated
    80
    """
    differs = new(ids.tape, ids.shape, "bool", op="ne")
    return like(differs, "int32")


def as_int64(ids: Sym) -> Sym:
    """Return ids.long() of int32 ids: a copy. Nothing is saved.

    Source: ATen/native/TensorConversions.cpp.

    >>> from oomph.tape.testing import Given, cost
    >>> cost(as_int64, Given((2, 8), "int32", trains=False)).allocated
    128
    """
    return like(ids, "int64")


def positions_of(mask: Sym) -> Sym:
    """Return (torch.cumsum(mask, dim=1).type_as(mask) + 0) * mask of a mask [B, S] int32. Nothing is saved.

    Source: transformers 5.23, models/roberta/modeling_roberta.py, create_position_ids_from_input_ids.

    A sum as int64, then as int32; two more of that.
    >>> from oomph.tape.testing import Given, cost
    >>> cost(positions_of, Given((2, 8), "int32", trains=False)).allocated
    320
    """
    summed = new(mask.tape, mask.shape, "int64", op="cumsum")
    narrow = like(summed, "int32")
    del summed
    shifted = like(narrow, "int32", "add")
    del narrow
    return like(shifted, "int32", "mul")


def _index_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, shape = grad(gradients), node.inputs[0][0]
    zeros = new(gradient.tape, shape, gradient.dtype, op="Index_backward")
    return [zeros if gradient.tape.on != "trace" else new(gradient.tape, shape, gradient.dtype, op="index_put")]


def part(x: Sym, start: Size, stop: Size, axis: int = -1) -> Sym:
    """Return x[..., start:stop], or the same of another axis, as Python's indexing makes it: a view; of all of x an
    alias, whose gradient passes through.

    Saves nothing; backward of a proper part allocates the whole input again, even for an empty one. Source:
    torch/csrc/autograd/python_variable_indexing.cpp, ATen/TensorIndexing.h, applySlice.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: part(x, 0, 128), (4, 256)).backward, cost(lambda x: part(x, 0, 256), (4, 256)).backward
    (2048, 0)
    """
    if not (yes(start == 0) and yes(stop == x.shape[axis])):
        return slice_axis(x, axis, start, stop)
    node = record("Alias", (x,), pass_through)
    return made_by(x.detach(), node)


def last_place(x: Sym) -> Sym:
    """Return x[..., -1:]: a view [.., 1].

    Saves nothing; backward allocates the whole input again. Source: ATen/native/TensorShape.cpp, slice_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(last_place, (4, 256))
    Cost(allocated=0, saved=0, backward=2048)
    """
    node = record("Slice", (x,), _whole_backward)
    return made_by(Sym((*x.shape[:-1], 1), x.dtype, x.strides, x.storage), node)


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
    shapes = [(*x.shape[:-1], size) for size in sizes]
    return tuple(made_by(one, node, at) for at, one in enumerate(_side_by_side(x, -1, shapes)))


def _side_by_side(x: Sym, axis: int, shapes: Sequence[Sequence[Size]]) -> Iterator[Sym]:
    """Yield views of x that follow each other along an axis."""
    for at, shape in enumerate(shapes):
        yield Sym(shape, x.dtype, x.strides, x.storage, _place(x, axis, at))


def _place(x: Sym, axis: int, start: Size) -> Place:
    """Return the place of a part of x that begins with an index along an axis, or is the n-th along it."""
    return x.place if isinstance(start, int) and start == 0 else (*x.place, (axis % len(x.shape), start))


def unbind(x: Sym, axis: int, places: int) -> tuple[Sym, ...]:
    """Return the places of an axis of x, as x.unbind(axis) does: views, which keep the whole of x alive.

    Saves nothing; backward stacks the gradients to one tensor of x's size. Source:
    torch/csrc/autograd/FunctionsManual.cpp, unbind_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: unbind(x, 2, 3), (2, 4, 3, 64))
    Cost(allocated=0, saved=0, backward=3072)
    """
    node = record("Unbind", (x,), _whole_backward, outputs=places)
    shape, strides = list(x.shape), list(x.strides)
    del shape[axis], strides[axis]
    views = [Sym(shape, x.dtype, strides, x.storage, _place(x, axis, at)) for at in range(places)]
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
    return _written(x, source, x.strides)


def copy_into_place(x: Sym, axis: int, source: Sym) -> Sym:
    """Return x after x[.., i, ..] = source, one place of an axis: x's own bytes with a new history, as copy_into_slice
    does it. Which place it is changes no byte.

    Saves nothing; backward copies the whole gradient to take the place out of it, as a copy too. Source:
    torch/csrc/autograd/functions/tensor.cpp, CopySlices::apply, CopyBackwards::apply.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x, source: copy_into_place(x, 1, source), frozen(4, 8, 64), (4, 64))
    Cost(allocated=0, saved=0, backward=4608)
    """
    return _written(x, source, (*x.strides[:axis], *x.strides[axis + 1 :]))


def _written(x: Sym, source: Sym, strides: Sequence[Size]) -> Sym:
    """Return x after source was copied into a part of it that has these strides."""
    node = record("CopySlices", (x, source), _copy_slices_backward)
    if node is not None:
        node.context = (x.strides, strides)
    return made_by(x.detach(), node)


def _copy_slices_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, ((shape, _), (part, dtype)), (strides, inside) = grad(gradients), node.inputs, node.context
    whole = new(gradient.tape, shape, gradient.dtype, strides, op="new_empty_strided")
    own = like(Sym(part, gradient.dtype, inside, whole.storage), gradient.dtype, "clone")
    zeros = new(gradient.tape, part, gradient.dtype, op="zeros_like") if node.needs(0) else None
    if own.dtype != dtype and node.needs(1):
        own = like(own, dtype)
    del zeros
    return [whole if node.needs(0) else None, own if node.needs(1) else None]


def copied(x: Sym, source: Sym) -> Sym:
    """Return x after x.copy_(source): x's own bytes with the source's history, which they keep alive.

    Saves nothing; backward hands the gradient to the source, zeros to what was there. Source:
    torch/csrc/autograd/functions/tensor.cpp, CopyBackwards::apply.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(copied, frozen(4, 256), (4, 256))
    Cost(allocated=0, saved=0, backward=0)
    """
    return made_by(x.detach(), record("Copy", (x, source), _copied_backward))


def _copied_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, dtype = grad(gradients), node.inputs[1][1]
    zeros = like(gradient, gradient.dtype, "zeros_like") if node.needs(0) else None
    return [zeros, like(gradient, dtype) if gradient.dtype != dtype else gradient]


def split(x: Sym, size: Size, parts: int) -> tuple[Sym, ...]:
    """Return x cut along the last axis into `parts` views of `size`; each keeps the whole of x alive.

    Saves nothing; backward joins the gradients to one tensor of x's size. Source:
    torch/csrc/autograd/FunctionsManual.cpp, split_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: split(x, 64, 4), (4, 256))
    Cost(allocated=0, saved=0, backward=2048)
    """
    return split_sizes(x, (size,) * parts)


def split_axis(x: Sym, axis: int, sizes: Sequence[Size]) -> tuple[Sym, ...]:
    """Return x cut along any axis into views of these sizes, as split_sizes does along the last.

    Saves nothing; backward joins the gradients to one tensor of x's size, when all are there. Source:
    torch/csrc/autograd/FunctionsManual.cpp, split_with_sizes_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: split_axis(x, 0, (3, 1)), (4, 256))
    Cost(allocated=0, saved=0, backward=2048)
    """
    node = record("Split", (x,), _whole_backward, outputs=len(sizes))
    shapes = [(*x.shape[:axis], size, *x.shape[axis + 1 :]) for size in sizes]
    return tuple(made_by(one, node, at) for at, one in enumerate(_side_by_side(x, axis, shapes)))


def pieces(length: Size, size: Size) -> list[Size]:
    """Return the lengths of the pieces of a split into pieces of one size: the last one is what is left. Allocates
    nothing; how many there are is part of what was played.

    Source: ATen/native/TensorShape.cpp, split.

    >>> from oomph.tape.testing import cost, frozen
    >>> pieces(300, 128), cost(lambda x: pieces(4, 4), frozen(1)).allocated
    ([128, 128, 44], 0)
    """
    count = number((length + size - 1) // size)
    yes((length + size - 1) // size == count)
    return [size] * (count - 1) + [length - size * (count - 1)]


def split_heads(x: Sym) -> tuple[Sym, ...]:
    """Return x [B, N, S, D] cut along its second axis into N views of one head each; each keeps all of x alive.

    Saves nothing; backward joins the gradients to one tensor of x's size. Source:
    torch/csrc/autograd/FunctionsManual.cpp, split_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(split_heads, (1, 4, 8, 16))
    Cost(allocated=0, saved=0, backward=1024)
    """
    heads = number(x.shape[1])
    yes(x.shape[1] == heads)
    node = record("Split", (x,), _whole_backward, outputs=heads)
    shapes = [(x.shape[0], 1, *x.shape[2:])] * heads
    return tuple(made_by(one, node, at) for at, one in enumerate(_side_by_side(x, 1, shapes)))
