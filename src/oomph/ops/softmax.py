"""Softmax of scores: saved is the result, not the input, which torch kept too up to 1.10."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import cast, grad, in_fp32
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sym import Sym, new


def softmax(x: Sym) -> Sym:
    """Return softmax over the last axis, contiguous, of x's shape and dtype, in fp32 under autocast.

    Saves the result, not x: backward is result · (g - sum(g · result)) in one kernel, a contiguous tensor. Source:
    torch tools/autograd/derivatives.yaml (_softmax), ATen/native/cuda/SoftMax.cu.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(softmax, fp32(4, 256))
    Cost(allocated=4096, saved=4096, backward=4096)
    """
    return softmax_as_is(in_fp32(x))


def softmax_as_is(x: Sym) -> Sym:
    """Return softmax(x, dtype=x.dtype), contiguous, of x's shape and dtype, under autocast too.

    Saves the result, as softmax does. Source: AT_FORALL_FP32_SET_OPT_DTYPE in ATen/autocast_mode.h: a dtype that is
    asked for stays.

    >>> from oomph.tape.testing import cost
    >>> cost(softmax_as_is, (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    node = record("Softmax", (x,), same_as_input)
    keep_input(node, x)
    out = new(x.tape, x.shape, x.dtype, op="softmax")
    save(node, out)
    return made_by(out, node)


def softmax_in_fp32(x: Sym) -> Sym:
    """Return softmax(x, dtype=fp32), shaped like x: x is cast first, but on a GPU one kernel takes fp16.

    Saves the fp32 result, as softmax does. Source: ATen/native/SoftMax.cpp, softmax; bf16 has no such kernel.

    >>> from oomph.tape.testing import cost
    >>> cost(softmax_in_fp32, (4, 256))
    Cost(allocated=8192, saved=4096, backward=6144)
    """
    if x.dtype != "fp16" or x.tape.on != "gpu":
        return softmax(cast(x, "fp32"))
    node = record("Softmax", (x,), same_as_input)
    keep_input(node, x)
    out = new(x.tape, x.shape, "fp32", op="softmax")
    save(node, out)
    return made_by(out, node)


def keep_input(node: Node | None, x: Sym) -> None:
    """Save the input of softmax or log-softmax in a job of torch up to 1.10, which does not look at it in backward.

    Source: pytorch issue 64000; since 1.11 only its dtype is kept (pull request 65242).

    >>> from oomph.tape import Tape
    >>> from oomph.tape.testing import cost, fp32
    >>> tape = Tape()
    >>> tape.keeps_softmax_inputs = True
    >>> cost(softmax, fp32(4, 256), tape=tape).saved
    8192
    """
    if x.tape.keeps_softmax_inputs:
        save(node, x)


def softmax_as(x: Sym, dtype: str) -> Sym:
    """Return softmax(x, dtype=dtype), shaped like x; a dtype that is spelled out holds under autocast too.

    Saves the result, as softmax does. Source: ATen/native/SoftMax.cpp, softmax; ATen/autocast_mode.h,
    fp32_set_opt_dtype.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: softmax_as(x, "bf16"), (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    if dtype == "fp32":
        return softmax_in_fp32(x)
    with x.tape.without_autocast():
        return softmax(cast(x, dtype))


def same_as_input(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Return a contiguous gradient of the input's shape and dtype: the backward of kernels that make it in one go
    (softmax, log_softmax, nll_loss).

    Source: ATen/native/cuda/SoftMax.cu, host_softmax_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(softmax, (4, 256)).backward
    2048
    """
    shape, dtype = node.inputs[0]
    return [new(grad(gradients).tape, shape, dtype, op=f"{node.name}_backward")]
