"""What Gemma 3n computes beside other decoders: deviations, roots, means of inputs, sums written into views.

Shape letters: A inputs of a layer, B batch, S sequence, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oomph.ops.elementwise import cast, grad, result
from oomph.ops.indexing import permute
from oomph.ops.slices import slice_axis
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new


def deviation(x: Sym) -> Sym:
    """Return x.std(-1, keepdim=True, unbiased=False): [.., H] to [.., 1].

    Saves x and the result. Backward: twice the result, a quotient, a comparison of one byte each, all [.., 1]; then the
    mean, x less the mean, the quotient scaled, and their product. Source: torch/csrc/autograd/FunctionsManual.cpp,
    std_backward, var_backward.

    Four of 4·2 B and a comparison of 4 B beside two tensors of x's size.
    >>> from oomph.tape.testing import cost
    >>> cost(deviation, (4, 256))
    Cost(allocated=8, saved=2056, backward=4132)
    """
    node = record("Std", (x,), _deviation_backward)
    save(node, x)
    out = new(x.tape, (*x.shape[:-1], 1), x.dtype, op="std")
    save(node, out)
    return made_by(out, node)


def _deviation_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (x, out) = grad(gradients), saved
    twice = result("mul", out.shape, out.dtype, out)
    grad_var = result("div", out.shape, out.dtype, gradient, twice)
    flat = result("eq", out.shape, "bool", out)
    del flat, twice
    mean = new(x.tape, out.shape, x.dtype, op="mean")
    apart = result("sub", x.shape, x.dtype, x, mean)
    scaled = result("mul", out.shape, out.dtype, grad_var)
    own = result("mul", x.shape, x.dtype, scaled, apart)
    del scaled, apart, mean  # what an expression in C++ made dies at its end, the last one first
    del grad_var, x, out
    return [own]


def root(x: Sym) -> Sym:
    """Return torch.sqrt(x), shaped like x.

    Saves the result: backward is g / (2 · result), two tensors. Source: torch tools/autograd/derivatives.yaml (sqrt).

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(root, fp32(4, 1))
    Cost(allocated=16, saved=16, backward=32)
    """
    node = record("Sqrt", (x,), _root_backward)
    out = result("sqrt", x.shape, x.dtype, x)
    save(node, out)
    return made_by(out, node)


def _root_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    kept = saved[0]
    twice = result("mul", kept.shape, kept.dtype, kept)
    out = result("div", kept.shape, kept.dtype, grad(gradients), twice)
    del kept, twice
    return [out]


def mean_first(x: Sym) -> Sym:
    """Return x.mean(0) of [A, ..]: a new [..].

    Saves nothing; backward divides the expanded gradient, one tensor of x's size. Source:
    torch/csrc/autograd/FunctionsManual.cpp, mean_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(mean_first, (4, 256))
    Cost(allocated=512, saved=0, backward=2048)
    """
    node = record("Mean", (x,), _mean_first_backward)
    return made_by(new(x.tape, x.shape[1:], x.dtype, op="mean"), node)


def _mean_first_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result("div", node.inputs[0][0], gradient.dtype, gradient)]


def repeat_inputs(x: Sym, times: Size) -> Sym:
    """Return x.repeat(A, 1, 1, 1) of x [B, S, H]: a new [A, B, S, H].

    Saves nothing; backward sums to one tensor of x's size. Source: torch/csrc/autograd/FunctionsManual.cpp,
    repeat_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: repeat_inputs(x, 4), (2, 8, 64))
    Cost(allocated=8192, saved=0, backward=2048)
    """
    node = record("Repeat", (x,), _repeat_backward)
    return made_by(new(x.tape, (times, *x.shape), x.dtype, op="repeat"), node)


def _repeat_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [new(gradient.tape, node.inputs[0][0], gradient.dtype, op="sum")]


def add_to_permuted(x: Sym, other: Sym, order: Sequence[int]) -> Sym:
    """Return y after y = x.permute(order); y += other: written into x, which autograd takes for the base of a view.

    Saves nothing. Backward copies the gradient into a tensor like the base, and once more for `other`; before that, not
    with fake tensors, which replay the view, it writes it into zeros. Source: torch/csrc/autograd/variable.cpp,
    VariableHooks::grad_fn; functions/tensor.cpp, CopySlices; FunctionsManual.cpp, as_strided_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x, y: add_to_permuted(x, y, (1, 0)), (4, 256), (256, 4))
    Cost(allocated=0, saved=0, backward=6144)
    """
    if x.node is None and not other.requires_grad:
        return permute(x, order)
    node = record("CopySlices", (x, other), _added_backward)
    if node is not None:
        node.context = tuple(order)
    base = made_by(x.detach(), node)
    return _view_again(base, permute(base, order))


def _added_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    (shape, dtype), order, gradient = node.inputs[0], node.context, grad(gradients)
    whole = new(gradient.tape, shape, dtype, op="new_empty_strided")
    own = new(gradient.tape, [shape[at] for at in order], dtype, op="clone")  # in order, whatever the view's is
    return [whole, cast(own, node.inputs[1][1]) if node.needs(1) else None]


def add_to_inputs(x: Sym, other: Sym) -> Sym:
    """Return x [A, ..] after x[1:] += other [..]: a sum written into a part of it, which is then copied onto itself.

    Saves nothing. Source: torch/csrc/autograd/functions/tensor.cpp, CopySlices, CopyBackwards;
    python_variable_indexing.cpp, THPVariable_setitem.

    Backward: for the copy a tensor like x, a copy of the part and zeros for it; the part in zeros like x, and both
    summed; for the sum a tensor like x, a copy of the part, and that summed for `other`.
    >>> from oomph.tape.testing import cost
    >>> cost(add_to_inputs, (4, 256), (256,)).allocated
    0
    """
    from oomph.ops.slices import copy_into_slice

    node = record("CopySlices", (x, other), _part_added_backward)
    base = made_by(x.detach(), node)
    part = _view_again(base, slice_axis(base, 0, 1, base.shape[0]))
    return copy_into_slice(base, part)


def _part_added_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    (shape, dtype), gradient = node.inputs[0], grad(gradients)
    whole = new(gradient.tape, shape, dtype, op="new_empty_strided")
    part = Sym((shape[0] - 1, *shape[1:]), dtype, whole.strides, whole.storage)
    own = like(part, dtype, "clone")
    return [whole, own if node.needs(1) else None]


def _view_again(base: Sym, view: Sym) -> Sym:
    """Return a view of a base that was written into, with the history that autograd gives it: replayed with fake
    tensors, else by its strides."""
    if base.tape.on == "trace" or base.node is None:
        return view
    made = Sym(view.shape, view.dtype, view.strides, view.storage, view.place)
    made.is_view = True
    return made_by(made, record("AsStrided", (base,), _as_strided_backward))


def _as_strided_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    shape, dtype = node.inputs[0]
    return [new(grad(gradients).tape, shape, dtype, op="new_zeros")]
