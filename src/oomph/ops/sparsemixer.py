"""What Phi-MoE's router is made of: noise on its input, one expert drawn after the other, gradients of its own.

Shape letters: T tokens, E experts, H hidden.
"""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad, in_fp32, result
from oomph.ops.indexing import view
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sym import Sym, new, row_major, view_of


def shake(x: Sym) -> Sym:
    """Return x *= torch.empty_like(x).uniform_(..), written into x, which is handed back with its new history.

    Saves the noise: backward is g · noise, one tensor. Source: torch tools/autograd/derivatives.yaml (mul.Tensor).

    >>> from oomph.tape.testing import cost
    >>> cost(shake, (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    noise = like(x, x.dtype, "empty_like")
    node = record("Mul", (x,), _shaken)
    save(node, noise)
    return made_by(x, node)


def _shaken(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result("mul", gradient.shape, gradient.dtype, gradient, saved[0])]


def shake_view(x: Sym) -> Sym:
    """Return x *= torch.empty_like(x).uniform_(..) of x, a view that reshape made of a result: x itself
    with its new history, for all who hold it.

    Saves the noise, but autograd does not know that the view is all of its base. Backward writes the gradient into
    zeros as large as the base (not so with fake tensors, which replay the view), copies it, and the view of that once
    more, and multiplies that. Source: torch/csrc/autograd/variable.cpp, VariableHooks::grad_fn;
    functions/tensor.cpp, CopySlices; FunctionsManual.cpp, as_strided_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: shake_view(view(x, (8, 128))), (4, 256))
    Cost(allocated=2048, saved=2048, backward=8192)
    """
    if x.node is None or x.node.name != "View":
        return shake(x)
    noise = like(x, x.dtype, "empty_like")
    shape = x.node.inputs[0][0]
    base = Sym(shape, x.dtype, row_major(shape), x.storage)
    base.requires_grad, (base.node, base.output) = True, x.node.edges[0]
    node = record("CopySlices", (base,), _shaken_slice)
    save(node, noise)
    base = made_by(base.detach(), node)
    if x.tape.on == "trace":
        made = view(base, x.shape)
    else:
        made = made_by(view_of(base, x.shape, x.strides), record("AsStrided", (base,), _as_strided_backward))
    x.requires_grad, x.node, x.output = made.requires_grad, made.node, made.output
    return x


def _shaken_slice(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    (shape, dtype), gradient = node.inputs[0], grad(gradients)
    whole = new(gradient.tape, shape, dtype, op="new_empty_strided")
    slice_of = new(gradient.tape, saved[0].shape, dtype, op="clone")
    product = result("mul", slice_of.shape, dtype, slice_of, saved[0])
    saved[0] = None  # what the multiplication unpacked is gone when it returns
    del slice_of, product
    return [whole]


def _as_strided_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    shape, dtype = node.inputs[0]
    return [new(grad(gradients).tape, shape, dtype, op="new_zeros")]


def log(x: Sym) -> Sym:
    """Return x.log() of a tensor without a history, shaped like x, in fp32 under autocast. Saves nothing.

    Source: AT_FORALL_FP32 in ATen/autocast_mode.h; ATen/native/UnaryOps.cpp.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(log, frozen(4, 256))
    Cost(allocated=2048, saved=0, backward=0)
    """
    x = in_fp32(x)
    return result("log", x.shape, x.dtype, x)


def scatter_number(x: Sym, index: Sym) -> Sym:
    """Return torch.scatter(x, -1, index, number) of x [T, E]: a copy in which one number stands at int64 [T, 1].

    Saves the index: backward writes zeros into a copy of the gradient. Source: torch tools/autograd/derivatives.yaml
    (scatter.value).

    >>> from oomph.tape.testing import cost, fp32, ids
    >>> cost(scatter_number, fp32(100, 8), ids(100, 1))
    Cost(allocated=3200, saved=800, backward=3200)
    """
    node = record("ScatterValue", (x,), _scattered_zeros)
    save(node, index)
    return made_by(new(x.tape, x.shape, x.dtype, op="scatter"), node)


def _scattered_zeros(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [new(gradient.tape, gradient.shape, gradient.dtype, op="scatter")]


def multiplier(scores: Sym, multiplier_o: Sym, index: Sym, gates: Sym, mask_for_one: Sym) -> Sym:
    """Mirror PhimoeMultiplier.apply: multiplier_o [T, 1] times a mask, with a gradient for the scores [T, E] alone.

    Saves the multiplier, the int64 index [T, 1] and the gates [T, E]: backward makes two tensors of one column and one
    of all experts, into which a scatter writes, and a copy in the scores' dtype. What gave multiplier and gates gets no
    gradient, but waits for one and keeps what it saved until then. Source: transformers 5.23,
    models/phimoe/modeling_phimoe.py.

    >>> from oomph.tape.testing import cost, fp32, frozen, ids
    >>> cost(multiplier, fp32(100, 8), frozen(100, 1), ids(100, 1), frozen(100, 8), frozen(100, 1))
    Cost(allocated=200, saved=2600, backward=5200)
    """
    node = record("PhimoeMultiplier", (scores, multiplier_o, gates), _multiplier_backward)
    out = result("mul", multiplier_o.shape, multiplier_o.dtype, multiplier_o, mask_for_one)
    save(node, multiplier_o, index, gates)
    return made_by(out, node)


def _multiplier_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (multiplier_o, _, gates) = grad(gradients), saved
    scaled = result("mul", gradient.shape, gradient.dtype, gradient, multiplier_o)
    negated = result("mul", scaled.shape, scaled.dtype, scaled)
    expanded = result("mul", gates.shape, gates.dtype, gates, negated)
    del negated, scaled, multiplier_o, gates
    for index in range(len(saved)):  # the locals of a Python function, then its arguments, before its results are used
        saved[index] = None
    gradients[0] = None
    del gradient
    return [expanded, None, None]
