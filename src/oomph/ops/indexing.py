"""Views and copies: transpose, view, slice, split, expand, cat. A view shares its base's storage and pins it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oomph.ops.elementwise import grad, pass_through
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save, sum_to
from oomph.tape.sizes import Size, number, product, yes
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


def clone(x: Sym) -> Sym:
    """Return x.clone(): a copy in x's layout where that is dense.

    Saves nothing: the gradient passes through. Source: ATen/native/TensorFactories.cpp, clone.

    >>> from oomph.tape.testing import cost
    >>> cost(clone, (4, 256))
    Cost(allocated=2048, saved=0, backward=0)
    """
    node = record("Clone", (x,), pass_through)
    return made_by(like(x, x.dtype, "clone"), node)


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


def select(x: Sym, axis: int) -> Sym:
    """Return x[..., i, ...], one place of an axis, which is gone: a view, which keeps the whole of x alive.

    Saves nothing; backward allocates the whole input again, zeros with the gradient copied in. Source:
    ATen/native/TensorShape.cpp, select_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: select(x, 1), (4, 3, 256))
    Cost(allocated=0, saved=0, backward=6144)
    """
    node = record("Select", (x,), _whole_backward)
    shape, strides = list(x.shape), list(x.strides)
    del shape[axis], strides[axis]
    return made_by(Sym(shape, x.dtype, strides, x.storage), node)


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


def part(x: Sym, start: Size, stop: Size) -> Sym:
    """Return x[..., start:stop] as Python's indexing makes it: a view; of all of x an alias, whose gradient passes
    through.

    Saves nothing; backward of a proper part allocates the whole input again, even for an empty one. Source:
    torch/csrc/autograd/python_variable_indexing.cpp, ATen/TensorIndexing.h, applySlice.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: part(x, 0, 128), (4, 256)).backward, cost(lambda x: part(x, 0, 256), (4, 256)).backward
    (2048, 0)
    """
    if not (yes(start == 0) and yes(stop == x.shape[-1])):
        return slice_axis(x, -1, start, stop)
    node = record("Alias", (x,), pass_through)
    return made_by(Sym(x.shape, x.dtype, x.strides, x.storage), node)


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


def stack_last(tensors: Sequence[Sym]) -> Sym:
    """Return torch.stack(tensors, -1): new and contiguous, with their number as a last axis.

    Saves nothing; backward hands out views of the gradient. Source: ATen/native/TensorShape.cpp, stack;
    torch/csrc/autograd/FunctionsManual.cpp, stack_tensors_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda a, b: stack_last([a, b]), (4, 128), (4, 128))
    Cost(allocated=2048, saved=0, backward=0)
    """
    node = record("Stack", tensors, _stack_backward)
    return made_by(new(tensors[0].tape, (*tensors[0].shape, len(tensors)), tensors[0].dtype, op="stack"), node)


def _stack_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [
        view_of(gradient, shape, gradient.strides[:-1]) if node.needs(at) else None
        for at, (shape, _) in enumerate(node.inputs)
    ]


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
    return tuple(made_by(Sym(shape, x.dtype, x.strides, x.storage), node, at) for at, shape in enumerate(shapes))


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
    shape = (x.shape[0], 1, *x.shape[2:])
    return tuple(made_by(Sym(shape, x.dtype, x.strides, x.storage), node, at) for at in range(heads))


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
