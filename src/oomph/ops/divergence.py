"""Divergences of distributions over a vocabulary, in logarithms: what distillation compares."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad, mul, result, sub
from oomph.ops.kernel import run
from oomph.ops.scan import exp
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new, row_major
from oomph.workspaces import OUTPUTS, Buffer, Freed


def logsumexp(x: Sym) -> Sym:
    """Return torch.logsumexp(x, 0) of [N, ..]: a new [..].

    A GPU finds the largest first, looks where it is infinite, and subtracts it from a copy of x. Saves x and the
    result; backward subtracts the result from x, takes the exponential of that, and multiplies by the gradient: three
    tensors of x's size. Source: ATen/native/ReduceOps.cpp, logsumexp_out_impl;
    torch/csrc/autograd/FunctionsManual.cpp, logsumexp_backward.

    4·256 numbers for the largest, their absolute values and a byte each; twice that for the copy, and the result.
    >>> from oomph.tape.testing import cost, fp32
    >>> cost(logsumexp, fp32(2, 4, 256))
    Cost(allocated=21504, saved=12288, backward=24576)
    """
    return _reduced(x, x.shape[1:])


def logsumexp_last(x: Sym) -> Sym:
    """Return torch.logsumexp(x, -1) of [.., V]: a new [..]. As logsumexp, along the last axis.

    2·4 numbers for the largest, their absolute values and a byte each; the copy of x, and the result. Saves x and the
    result. Source: as of logsumexp.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(logsumexp_last, fp32(2, 4, 256))
    Cost(allocated=8296, saved=8224, backward=24576)
    """
    return _reduced(x, x.shape[:-1])


def _reduced(x: Sym, shape: tuple[Size, ...]) -> Sym:
    node = record("Logsumexp", (x,), _logsumexp_backward)
    save(node, x)
    steps = (
        Buffer("amax", shape, x.dtype), Buffer("abs", shape, x.dtype), Buffer("eq", shape, "bool"), Freed("eq"),
        Freed("abs"), Buffer("sub", x.shape, x.dtype), OUTPUTS,
    )  # fmt: skip
    out = run(x.tape, steps, lambda: new(x.tape, shape, x.dtype, op="logsumexp"))
    save(node, out)
    return made_by(out, node)


def _logsumexp_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    x, gradient = saved[0], grad(gradients)
    below = new(x.tape, x.shape, x.dtype, row_major(x.shape), "sub")
    exponential = new(x.tape, x.shape, x.dtype, row_major(x.shape), "exp")
    made = result("mul", x.shape, gradient.dtype, exponential)
    del exponential, below  # C++ temporaries die in reverse order
    return [made]


def kl_div(input: Sym, target: Sym) -> Sym:
    """Return F.kl_div(input, target, reduction="none", log_target=True): exp(target) · (target - input).

    Three tensors of their size. Saves the exponential, and the difference where the target wants a gradient. Source:
    ATen/native/Loss.cpp, kl_div.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(kl_div, fp32(4, 256), fp32(4, 256))
    Cost(allocated=12288, saved=8192, backward=16384)
    """
    difference = sub(target, input)
    exponential = exp(target)
    out = mul(exponential, difference)
    del exponential, difference  # C++ temporaries die in reverse order
    return out


def kl_div_of(input: Sym, target: Sym) -> Sym:
    """Return F.kl_div(input, target, reduction="none"): target · log(target) - target · input, of probabilities.

    Three tensors of their size. Saves the target for the gradient of the input, which is negated and multiplied.
    Source: ATen/native/Loss.cpp, kl_div.

    >>> from oomph.tape.testing import Given, cost, fp32
    >>> cost(kl_div_of, fp32(4, 256), Given((4, 256), "fp32", trains=False))
    Cost(allocated=12288, saved=4096, backward=8192)
    """
    product = mul(target, input)
    entropy = result("xlogy", target.shape, target.dtype, target)
    out = sub(entropy, product)
    del entropy, product
    return out
