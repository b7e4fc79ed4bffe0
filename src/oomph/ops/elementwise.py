"""Elementwise operations, casts, means and softmax. Layouts of results follow torch's TensorIterator."""

from __future__ import annotations

from typing import Any

from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sym import WIDTH, Sym, broadcast, elementwise_strides, new


def result(op: str, shape: Any, dtype: str, *operands: Sym) -> Sym:
    """Return the result of an elementwise operation on these operands."""
    return new(operands[0].tape, shape, dtype, elementwise_strides(shape, operands), op)


def wider(a: str, b: str) -> str:
    """Return the dtype two tensors are computed in."""
    return a if WIDTH[a] >= WIDTH[b] else b


def grad(gradients: Gradients, index: int = 0) -> Sym:
    """Return a gradient that is there."""
    found = gradients[index]
    if found is None:
        raise AssertionError("a backward rule was called without its gradient")
    return found


def unary(x: Sym, op: str = "unary") -> Sym:
    """Return an elementwise function whose history does not matter (cos, sin, scaling of positions)."""
    return result(op, x.shape, x.dtype, x)


def cast(x: Sym, dtype: str) -> Sym:
    """Return x.to(dtype): x itself if it is that already. Saves nothing; backward casts the gradient back."""
    if x.dtype == dtype:
        return x
    node = record("ToCopy", (x,), _cast_backward)
    return made_by(like(x, dtype), node)


def _cast_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    dtype = node.inputs[0][1]
    gradient = grad(gradients)
    return [like(gradient, dtype) if gradient.dtype != dtype else gradient]


def in_fp32(x: Sym) -> Sym:
    """Return what an operation of autocast's fp32 list gets (ATen/autocast_mode.h): x in fp32 under autocast."""
    return x if x.tape.autocast is None or x.tape.autocast_paused else cast(x, "fp32")


def power(x: Sym) -> Sym:
    """Return x.pow(n), in fp32 under autocast. Saves x; backward makes pow, scaled copy and product."""
    x = in_fp32(x)
    node = record("Pow", (x,), _power_backward)
    save(node, x)
    return made_by(result("pow", x.shape, x.dtype, x), node)


def _power_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    x = saved[0]
    powered = result("pow", x.shape, x.dtype, x)
    scaled = result("mul", x.shape, x.dtype, powered)
    out = result("mul", x.shape, x.dtype, grad(gradients), scaled)
    del x, scaled, powered
    return [out]


def mean(x: Sym) -> Sym:
    """Return x.mean(-1, keepdim=True). Saves nothing; backward is the expanded gradient divided by the size."""
    node = record("Mean", (x,), _mean_backward)
    return made_by(new(x.tape, (*x.shape[:-1], 1), x.dtype, op="mean"), node)


def _mean_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result("div", node.inputs[0][0], gradient.dtype, gradient)]


def add_scalar(x: Sym) -> Sym:
    """Return x + number. Saves nothing; the gradient passes through."""
    node = record("AddScalar", (x,), pass_through)
    return made_by(result("add", x.shape, x.dtype, x), node)


def pass_through(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Return the gradient as it came."""
    return [gradients[0]]


def rsqrt(x: Sym) -> Sym:
    """Return 1/sqrt(x). Saves the result; backward is -0.5 · g · result³."""
    node = record("Rsqrt", (x,), _rsqrt_backward)
    out = result("rsqrt", x.shape, x.dtype, x)
    save(node, out)
    return made_by(out, node)


def _rsqrt_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    kept = saved[0]
    cubed = result("pow", kept.shape, kept.dtype, kept)
    scaled = result("mul", cubed.shape, cubed.dtype, grad(gradients))
    out = result("mul", cubed.shape, cubed.dtype, scaled, cubed)
    del kept, scaled, cubed
    return [out]


def mul(a: Sym, b: Sym) -> Sym:
    """Return a · b. Saves each operand only if the other wants a gradient."""
    node = record("Mul", (a, b), _mul_backward)
    if node is not None:
        save(node, b if a.requires_grad else None, a if b.requires_grad else None)  # other, self
    return made_by(result("mul", broadcast(a.shape, b.shape), wider(a.dtype, b.dtype), a, b), node)


def _mul_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    other = result("mul", gradient.shape, gradient.dtype, gradient, saved[1]) if node.needs(1) else None
    own = result("mul", gradient.shape, gradient.dtype, gradient, saved[0]) if node.needs(0) else None
    return [own, other]


def mul_scalar(x: Sym) -> Sym:
    """Return x · number. Saves nothing."""
    node = record("MulScalar", (x,), _scaled_backward)
    return made_by(result("mul", x.shape, x.dtype, x), node)


def _scaled_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result("mul", gradient.shape, gradient.dtype, gradient)]


def add(a: Sym, b: Sym) -> Sym:
    """Return a + b. Saves nothing; both gradients are the incoming one."""
    node = record("Add", (a, b), _add_backward)
    return made_by(result("add", broadcast(a.shape, b.shape), wider(a.dtype, b.dtype), a, b), node)


def _add_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [gradients[0] if node.needs(0) else None, gradients[0] if node.needs(1) else None]


def neg(x: Sym) -> Sym:
    """Return -x. Saves nothing."""
    node = record("Neg", (x,), _neg_backward)
    return made_by(result("neg", x.shape, x.dtype, x), node)


def _neg_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result("neg", gradient.shape, gradient.dtype, gradient)]


def silu(x: Sym) -> Sym:
    """Return x · sigmoid(x). Saves x; one kernel each way."""
    node = record("Silu", (x,), _with_saved)
    save(node, x)
    return made_by(result("silu", x.shape, x.dtype, x), node)


def tanh(x: Sym) -> Sym:
    """Return tanh(x). Saves the result."""
    node = record("Tanh", (x,), _with_saved)
    out = result("tanh", x.shape, x.dtype, x)
    save(node, out)
    return made_by(out, node)


def _with_saved(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result(f"{node.name}_backward", gradient.shape, gradient.dtype, gradient, saved[0])]


def gelu_new(x: Sym) -> Sym:
    """Return NewGELUActivation, which transformers writes out: seven operations, five of them saved.

    Mirror: 0.5 * input * (1.0 + torch.tanh(c * (input + 0.044715 * torch.pow(input, 3.0))))
    """
    return (x * 0.5) * (tanh((x + power(x) * 0.044715) * 0.8) + 1.0)


def softmax(x: Sym) -> Sym:
    """Return softmax over the last axis, in fp32 under autocast. Saves the result; results are contiguous."""
    x = in_fp32(x)
    node = record("Softmax", (x,), same_as_input)
    out = new(x.tape, x.shape, x.dtype, op="softmax")
    save(node, out)
    return made_by(out, node)


def softmax_in_fp32(x: Sym) -> Sym:
    """Return softmax(x, dtype=fp32): x is cast first, but on CUDA one kernel takes fp16 (a trace casts, as the CPU).

    Source: ATen/native/SoftMax.cpp, softmax; bf16 has no such kernel.
    """
    if x.dtype != "fp16" or not x.tape.in_place_sums:
        return softmax(cast(x, "fp32"))
    node = record("Softmax", (x,), same_as_input)
    out = new(x.tape, x.shape, "fp32", op="softmax")
    save(node, out)
    return made_by(out, node)


def same_as_input(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Return a contiguous gradient of the input's shape and dtype."""
    shape, dtype = node.inputs[0]
    return [new(grad(gradients).tape, shape, dtype, op=f"{node.name}_backward")]


def dropout(x: Sym, rate: float) -> Sym:
    """Return native_dropout(x): a result and a bool mask, which is saved. x itself if nothing is to be dropped."""
    if not rate or not x.tape.dropout:
        return x
    node = record("Dropout", (x,), _dropout_backward)
    out = result("native_dropout", x.shape, x.dtype, x)
    mask = result("native_dropout", x.shape, "bool", x)
    save(node, mask)
    return made_by(out, node)


def _dropout_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result("native_dropout_backward", gradient.shape, gradient.dtype, gradient)]
