"""What recurrences over time are made of: exponentials, running sums, softplus."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad, in_fp32, result
from oomph.ops.kernel import run
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym, new
from oomph.workspaces import OUTPUTS, Buffer, Step


def exp(x: Sym) -> Sym:
    """Return exp(x), shaped like x, in fp32 under autocast.

    Saves the result, not x: backward is g · result, one tensor. Source: torch tools/autograd/derivatives.yaml (exp).

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(exp, fp32(4, 256))
    Cost(allocated=4096, saved=4096, backward=4096)
    """
    x = in_fp32(x)
    node = record("Exp", (x,), _exp_backward)
    out = result("exp", x.shape, x.dtype, x)
    save(node, out)
    return made_by(out, node)


def _exp_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result("mul", gradient.shape, gradient.dtype, gradient, saved[0])]


def softplus(x: Sym) -> Sym:
    """Return log(1 + exp(x)), shaped like x, in fp32 under autocast.

    Saves x: backward is one kernel, one tensor. Source: torch tools/autograd/derivatives.yaml (softplus).

    >>> from oomph.tape.testing import cost
    >>> cost(softplus, (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    x = in_fp32(x)
    node = record("Softplus", (x,), _softplus_backward)
    save(node, x)
    return made_by(result("softplus", x.shape, x.dtype, x), node)


def _softplus_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, x = grad(gradients), saved[0]
    operands = (x, gradient) if gradient.tape.on == "trace" else (gradient, x)  # there it is put together by a `where`
    return [result("softplus_backward", gradient.shape, gradient.dtype, *operands)]


def cumsum(x: Sym, axis: int) -> Sym:
    """Return the running sum of x along an axis, a new contiguous tensor; in fp32 under autocast, which asks the kernel
    for it.

    Saves nothing; backward turns the gradient round, sums and turns back: three tensors of x's size, none along an axis
    of one place. On a GPU an x that does not lie in order is copied meanwhile. Source:
    torch/csrc/autograd/FunctionsManual.cpp, cumsum_backward; ATen/native/cuda/ScanUtils.cuh, scan_dim.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(lambda x: cumsum(x, 1), fp32(4, 256))
    Cost(allocated=4096, saved=0, backward=12288)
    """
    casts = x.tape.autocast is not None and not x.tape.autocast_paused
    node = record("Cumsum", (x,), _cumsum_backward)
    if node is not None:
        node.context = axis
    return made_by(_running(x, "fp32" if casts else x.dtype), node)


def _running(x: Sym, dtype: str) -> Sym:
    steps: tuple[Step, ...] = () if x.is_contiguous() else (Buffer("input", x.shape, x.dtype),)
    return run(x.tape, (OUTPUTS, *steps), lambda: new(x.tape, x.shape, dtype, op="cumsum"))


def _cumsum_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    if yes(gradient.shape[node.context] == 1):
        return [gradient]
    turned = like(gradient, gradient.dtype, "flip")
    summed = _running(turned, gradient.dtype)
    back = like(summed, summed.dtype, "flip")
    del summed, turned
    return [back]
