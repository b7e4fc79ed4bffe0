"""Values that are bounded or filled: clamp and masked_fill."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad, result
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sym import Sym, new


def masked_fill(x: Sym, mask: Sym) -> Sym:
    """Return x.masked_fill(mask, number), a new contiguous tensor of x's shape.

    Saves the mask, one byte each: backward fills the gradient with 0 where it is set, one tensor. Source: torch
    tools/autograd/derivatives.yaml (masked_fill.Scalar).

    >>> from oomph.tape.testing import Given, cost, fp32
    >>> cost(masked_fill, fp32(4, 256), Given((4, 256), "bool", trains=False))
    Cost(allocated=4096, saved=1024, backward=4096)
    """
    node = record("MaskedFill", (x,), _masked_fill_backward)
    save(node, mask)
    return made_by(new(x.tape, x.shape, x.dtype, op="masked_fill"), node)


def _masked_fill_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [new(gradient.tape, gradient.shape, gradient.dtype, op="masked_fill")]


def where(mask: Sym, x: Sym) -> Sym:
    """Return torch.where(mask, x, number), shaped like x; the number is a scalar tensor for a moment.

    Saves the mask, one byte each: backward selects by it, one tensor and a scalar. Source: torch
    tools/autograd/derivatives.yaml (where.self); ATen/native/TensorCompare.cpp, where.ScalarOther.

    >>> from oomph.tape.testing import Given, cost, fp32
    >>> cost(lambda mask, x: where(mask, x), Given((4, 256), "bool", trains=False), fp32(4, 256))
    Cost(allocated=4100, saved=1024, backward=4100)
    """
    node = record("Where", (x,), _where_backward)
    save(node, mask)
    number = new(x.tape, (), x.dtype, op="scalar_tensor")
    out = result("where", x.shape, x.dtype, x)
    del number
    return made_by(out, node)


def _where_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [_where_taken(grad(gradients))]


def _where_taken(gradient: Sym, *mask: Sym) -> Sym:
    """Return a gradient with 0 where the other value was taken, laid out like the mask if given: the 0 is a scalar
    tensor for a moment.
    """
    zero = new(gradient.tape, (), gradient.dtype, op="scalar_tensor")
    own = result("where", gradient.shape, gradient.dtype, *mask, gradient)
    del zero
    return own


def where_either(mask: Sym, a: Sym, b: Sym) -> Sym:
    """Return torch.where(mask, a, b) of tensors of one shape and dtype.

    Saves the mask, one byte each: backward selects by it, for each that wants a gradient one tensor and a scalar.
    Source: torch tools/autograd/derivatives.yaml (where.self).

    >>> from oomph.tape.testing import Given, cost, fp32
    >>> cost(where_either, Given((8,), "bool", trains=False), fp32(8), fp32(8))
    Cost(allocated=32, saved=8, backward=72)
    """
    node = record("Where", (a, b), _where_either_backward)
    save(node, mask)
    return made_by(result("where", a.shape, a.dtype, mask, a, b), node)


def _where_either_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    other = _where_taken(grad(gradients), saved[0]) if node.needs(1) else None
    own = _where_taken(grad(gradients), saved[0]) if node.needs(0) else None
    return [own, other]


def where_buffer(x: Sym, number: Sym) -> Sym:
    """Return torch.where(mask, x, number), shaped like x, with a mask that a module registers and a scalar tensor.

    Saves nothing but the mask, which lies there anyway; backward selects by it, one tensor and a scalar. Source: torch
    tools/autograd/derivatives.yaml (where.self).

    >>> from oomph.tape.testing import Given, cost, fp32
    >>> cost(where_buffer, fp32(4, 256), Given((), "fp32", trains=False))
    Cost(allocated=4096, saved=0, backward=4100)
    """
    node = record("Where", (x,), _where_backward)
    return made_by(result("where", x.shape, x.dtype, x, number), node)


def at_least(x: Sym) -> Sym:
    """Return torch.max(x, lowest), shaped like x, `lowest` a scalar tensor on the host.

    Saves x. Backward: where the two are equal half of the gradient, where x is below nothing: two
    comparisons of one byte each, two tensors of x's size. Source: torch tools/autograd/derivatives.yaml (maximum).

    >>> from oomph.tape.testing import cost
    >>> cost(at_least, (4, 256))
    Cost(allocated=2048, saved=2048, backward=6144)
    """
    node = record("Maximum", (x,), _at_least_backward)
    save(node, x)
    return made_by(result("maximum", x.shape, x.dtype, x), node)


def _at_least_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, x = grad(gradients), saved[0]
    half = result("div", gradient.shape, gradient.dtype, gradient)
    equal = result("eq", x.shape, "bool", x)
    own = result("where", x.shape, gradient.dtype, equal, gradient)
    below = result("lt", x.shape, "bool", x)
    del below, equal, half, x
    return [own]


def clamp(x: Sym) -> Sym:
    """Return x.clamp(..) at one or both ends, shaped like x.

    Saves x, for a comparison of one byte each that backward makes and selects by. Source:
    torch/csrc/autograd/FunctionsManual.cpp, clamp_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(clamp, (4, 256))
    Cost(allocated=2048, saved=2048, backward=3074)
    """
    return _clamped(x, ends=1)


def clamp_both(x: Sym) -> Sym:
    """Return x.clamp(low, high), shaped like x: as clamp, with two comparisons, the second taken into the first.

    Saves x. Source: torch/csrc/autograd/FunctionsManual.cpp, clamp_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(clamp_both, (4, 256))
    Cost(allocated=2048, saved=2048, backward=4098)
    """
    return _clamped(x, ends=2)


def _clamped(x: Sym, ends: int) -> Sym:
    node = record("Clamp", (x,), _clamp_backward)
    if node is not None:
        node.context = ends
    save(node, x)
    return made_by(result("clamp", x.shape, x.dtype, x), node)


def _clamp_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, x = grad(gradients), saved[0]
    zero = new(x.tape, (), gradient.dtype, op="scalar_tensor")
    inside = result("ge", x.shape, "bool", x)
    other = result("le", x.shape, "bool", x) if node.context > 1 else None
    own = result("where", x.shape, gradient.dtype, inside, gradient)
    del other, inside, zero, x
    return [own]


def clamp_between(x: Sym, low: Sym, high: Sym) -> Sym:
    """Return torch.clamp(x, low, high) with tensors of x's shape that want no gradient.

    Saves all three; backward compares with both, joins the answers and selects by them. Source:
    torch/csrc/autograd/FunctionsManual.cpp, clamp_backward of tensors.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(clamp_between, (4, 256), frozen(4, 256), frozen(4, 256))
    Cost(allocated=2048, saved=6144, backward=5122)
    """
    node = record("Clamp", (x,), _clamp_between_backward)
    save(node, high, low, x)
    return made_by(result("clamp", x.shape, x.dtype, x), node)


def _clamp_between_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, x = grad(gradients), saved[2]
    zero = new(x.tape, (), gradient.dtype, op="scalar_tensor")
    above = result("ge", x.shape, "bool", x)
    below = result("le", x.shape, "bool", x)
    inside = result("logical_and", x.shape, "bool", x)
    own = result("where", x.shape, gradient.dtype, inside, gradient)
    del inside, below, above, zero, x
    return [own]
