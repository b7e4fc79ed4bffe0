"""Convolutions along T of [B, C, T], and channels put in their places (as LitGPT adapts a fused map)."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad
from oomph.ops.kernel import run
from oomph.ops.matmul import autocast_argument
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new
from oomph.workspaces import OUTPUTS, Buffer, Step


def conv1d(x: Sym, weight: Sym, bias: Sym | None = None, padding: Size = 0, stride: int = 1) -> Sym:
    """Return F.conv1d of x [B, C, T] with weight [O, C / groups, K] and bias [O], if any: a new [B, O, U] with
    U = (T + 2·padding - K) // stride + 1. Autocast casts its arguments, the last one first; weights and a bias once for
    all their uses. How many groups there are changes no byte.

    Saves x and the weight, whichever trains; backward makes the gradients that are wanted. On a GPU an x that does not
    lie as [B, C, T] is copied for the time of either pass, and so is the gradient; cuDNN's own buffers are not known.
    Source: ATen/native/Convolution.cpp, _convolution and convolution_backward; torch tools/autograd/derivatives.yaml.

    >>> from oomph.tape.testing import cost
    >>> cost(conv1d, (2, 16, 64), (512, 8, 1))
    Cost(allocated=131072, saved=12288, backward=12288)

    A depthwise convolution of 4 places, whose result has 3 places more than it is used for:
    >>> cost(lambda x, weight, bias: conv1d(x, weight, bias, padding=3), (2, 16, 64), (16, 1, 4), (16,))
    Cost(allocated=4288, saved=4224, backward=4256)
    """
    # The arguments as they came live until the call is over.
    low_bias = None if bias is None else autocast_argument(bias, cached=True)
    low_weight = autocast_argument(weight, cached=True)
    low_x = autocast_argument(x, cached=True)
    inputs = (low_x, low_weight) if low_bias is None else (low_x, low_weight, low_bias)
    node = record("Convolution", inputs, _conv1d_backward)
    save(node, low_x, low_weight)
    shape = (x.shape[0], weight.shape[0], (x.shape[2] + padding * 2 - weight.shape[2]) // stride + 1)
    steps = (*_copy("input", low_x), OUTPUTS)
    return made_by(run(x.tape, steps, lambda: new(x.tape, shape, low_x.dtype, op="convolution")), node)


def _conv1d_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, x = grad(gradients), saved[0]
    steps = (*_copy("input", x), *_copy("grad_output", gradient), OUTPUTS)
    op = "convolution_backward"
    return run(
        gradient.tape,
        steps,
        lambda: [new(gradient.tape, *each, op=op) if node.needs(at) else None for at, each in enumerate(node.inputs)],
    )


def _copy(name: str, x: Sym) -> tuple[Step, ...]:
    return () if x.is_contiguous() else (Buffer(name, x.shape, x.dtype),)


def index_copy(result: Sym, index: Sym, source: Sym, *, in_place: bool) -> Sym:
    """Return result [.., N], which has no history, with the channels of source [.., C] copied to the places that an
    index [C] names: index_copy_, or index_copy, which copies the result first.

    Saves the index, and the source for nothing but its shape; backward takes the places' gradients out, one tensor as
    large as the source. Source: torch tools/autograd/derivatives.yaml (index_copy: expand_as(source)).

    >>> from oomph.tape.testing import cost, frozen, ids
    >>> cost(lambda zeros, index, x: index_copy(zeros, index, x, in_place=False), frozen(4, 96), ids(64), (4, 64))
    Cost(allocated=768, saved=1024, backward=512)
    """
    node = record("IndexCopy", (result, source), _index_copy_backward)
    save(node, index, source)
    if not in_place:
        result = like(result, source.dtype, "index_copy")
    return made_by(result, node)


def _index_copy_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (shape, _) = grad(gradients), node.inputs[1]
    return [None, new(gradient.tape, shape, gradient.dtype, op="index_select")]
