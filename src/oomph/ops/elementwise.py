"""Elementwise operations, casts, means and softmax. Layouts of results follow torch's TensorIterator."""

from __future__ import annotations

from typing import Any

from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sym import WIDTH, Sym, broadcast, elementwise_strides, is_channels_last, new


def result(op: str, shape: Any, dtype: str, *operands: Sym) -> Sym:
    """Return the new tensor an elementwise operation makes of its operands: `shape`, `dtype`, and the layout that
    torch's TensorIterator would give it. Allocates that and nothing else; whether something is saved is up to the
    rule.

    Source: ATen/native/TensorIterator.cpp, allocate_or_resize_outputs.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x: result("exp", x.shape, "fp32", x), frozen(4, 256))
    Cost(allocated=4096, saved=0, backward=0)
    """
    return new(operands[0].tape, shape, dtype, elementwise_strides(shape, operands), op)


def wider(a: str, b: str) -> str:
    """Return the dtype two tensors are computed in: the one with more bytes, the first of equals; integers give way to
    floating numbers. A bf16 factor of an fp32 one makes an fp32 product.

    Source: c10/core/ScalarType.cpp, promoteTypes.

    >>> from oomph.tape.testing import cost, fp32
    >>> wider("bf16", "fp32"), cost(lambda a, b: a * b, (4, 256), fp32(4, 256)).allocated
    ('fp32', 4096)
    """
    if a.startswith("int") != b.startswith("int"):
        return b if a.startswith("int") else a
    return a if WIDTH[a] >= WIDTH[b] else b


def common_dtype(a: Sym, b: Sym) -> str:
    """Return the dtype in which two tensors are computed; one without axes does not widen another of its kind.

    Source: ATen/native/TypeProperties.cpp, result_type.

    >>> from oomph.tape.testing import Given, cost
    >>> cost(lambda a, b: a * b, (4, 256), Given((), "fp32")).allocated
    2048
    """
    if bool(a.shape) != bool(b.shape) and a.dtype.startswith("int") == b.dtype.startswith("int"):
        return a.dtype if a.shape else b.dtype
    return wider(a.dtype, b.dtype)


def grad(gradients: Gradients, index: int = 0) -> Sym:
    """Return a gradient that a rule was called with: the `index`-th output's. Allocates nothing; a missing one is a bug
    in a rule, since the engine runs no node before a gradient came.

    Source: torch/csrc/autograd/engine.cpp, Engine::evaluate_function.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x: grad([x]), frozen(4, 256))
    Cost(allocated=0, saved=0, backward=0)
    """
    found = gradients[index]
    if found is None:
        raise AssertionError("a backward rule was called without its gradient")
    return found


def unary(x: Sym, op: str = "unary") -> Sym:
    """Return an elementwise function of x whose history does not matter: cos, sin, scaling of positions. One tensor
    like x, nothing saved, no backward.

    Source: ATen/native/UnaryOps.cpp.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x: unary(x, "cos"), frozen(4, 256))
    Cost(allocated=2048, saved=0, backward=0)
    """
    return result(op, x.shape, x.dtype, x)


def zeros_like(x: Sym) -> Sym:
    """Return torch.zeros_like(x): a tensor in x's layout that has no history.

    Source: ATen/native/TensorFactories.cpp, zeros_like.

    >>> from oomph.tape.testing import cost
    >>> cost(zeros_like, (4, 256))
    Cost(allocated=2048, saved=0, backward=0)
    """
    return like(x, x.dtype, "zeros_like")


def cast(x: Sym, dtype: str) -> Sym:
    """Return x.to(dtype): x itself if it is that already, else a copy in x's layout.

    Saves nothing: backward casts the gradient back, one tensor of x's dtype. Source: torch
    tools/autograd/derivatives.yaml (_to_copy), ATen/native/TensorConversions.cpp.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: cast(x, "fp32"), (4, 256))
    Cost(allocated=4096, saved=0, backward=2048)
    """
    if x.dtype == dtype:
        return x
    node = record("ToCopy", (x,), cast_back)
    return made_by(like(x, dtype), node)


def cast_back(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Return the gradient in the dtype of what was cast: the backward of a cast, one tensor if it is another dtype.

    Source: torch tools/autograd/derivatives.yaml (_to_copy).

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: cast(x, "fp32"), (4, 256)).backward
    2048
    """
    dtype = node.inputs[0][1]
    gradient = grad(gradients)
    return [like(gradient, dtype) if gradient.dtype != dtype else gradient]


def cast_in_order(x: Sym, dtype: str) -> Sym:
    """Return x.to(dtype, memory_format=torch.contiguous_format): x itself if it has that dtype and is not [B, C, H, W]
    with channels innermost, else a contiguous copy.

    Saves nothing: backward casts the gradient back. Source: ATen/native/TensorConversions.cpp, to_will_alias.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: cast_in_order(x, "fp32"), (4, 256))
    Cost(allocated=4096, saved=0, backward=2048)
    """
    if x.dtype == dtype and not is_channels_last(x):
        return x
    node = record("ToCopy", (x,), cast_back)
    return made_by(new(x.tape, x.shape, dtype, op="_to_copy"), node)


def in_fp32(x: Sym) -> Sym:
    """Return an argument of an operation that autocast runs in fp32: its fp32 copy under autocast, else x itself.

    Source: AT_FORALL_FP32 in ATen/autocast_mode.h.

    >>> from oomph.tape.testing import cost
    >>> from oomph.tape.tape import Tape, autocast
    >>> tape = Tape()
    >>> with autocast(tape, "bf16"):
    ...     cost(in_fp32, (4, 256), tape=tape)
    Cost(allocated=4096, saved=0, backward=2048)
    """
    return x if x.tape.autocast is None or x.tape.autocast_paused else cast(x, "fp32")


def power(x: Sym) -> Sym:
    """Return x.pow(n), shaped like x, in fp32 under autocast.

    Saves x, for its own backward g · (2 · x.pow(1)), which makes three tensors of x's size: power, scaled power,
    product. Source: torch/csrc/autograd/FunctionsManual.cpp, pow_backward.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(power, fp32(4, 256))
    Cost(allocated=4096, saved=4096, backward=12288)
    """
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
    """Return x.mean(-1, keepdim=True): [.., H] to [.., 1].

    Saves nothing, sizes do: backward divides the expanded gradient by H, one tensor of x's size. Source:
    torch/csrc/autograd/FunctionsManual.cpp, mean_backward.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(mean, fp32(4, 256))
    Cost(allocated=16, saved=0, backward=4096)
    """
    node = record("Mean", (x,), _mean_backward)
    return made_by(new(x.tape, (*x.shape[:-1], 1), x.dtype, op="mean"), node)


def _mean_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result("div", node.inputs[0][0], gradient.dtype, gradient)]


def add_scalar(x: Sym) -> Sym:
    """Return x + number, shaped like x.

    Saves nothing: the gradient passes through. Source: torch tools/autograd/derivatives.yaml (add.Scalar).

    >>> from oomph.tape.testing import cost
    >>> cost(add_scalar, (4, 256))
    Cost(allocated=2048, saved=0, backward=0)
    """
    node = record("AddScalar", (x,), pass_through)
    return made_by(result("add", x.shape, x.dtype, x), node)


def pass_through(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Return the gradient as it came: the backward of what changes no gradient. Allocates nothing.

    Source: torch tools/autograd/derivatives.yaml, entries whose formula is `grad` (add.Scalar, clone).

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: x + 1.0, (4, 256)).backward
    0
    """
    return [gradients[0]]


def rsqrt(x: Sym) -> Sym:
    """Return 1/sqrt(x), shaped like x.

    Saves the result, not x: backward is -0.5 · g · result³, three tensors of its size (cube, scaled gradient, product).
    Source: torch tools/autograd/derivatives.yaml (rsqrt).

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(rsqrt, fp32(4, 1))
    Cost(allocated=16, saved=16, backward=48)
    """
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
    """Return a · b in their common shape and dtype.

    Saves each operand only if the other wants a gradient: a's is g · b, b's is g · a, each a tensor of the result's
    shape before it is summed to its operand's. Source: torch tools/autograd/derivatives.yaml (mul.Tensor),
    torch/csrc/autograd/FunctionsManual.cpp, mul_tensor_backward.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(mul, (4, 256), (4, 256)), cost(mul, (4, 256), frozen(4, 256))
    (Cost(allocated=2048, saved=4096, backward=4096), Cost(allocated=2048, saved=2048, backward=2048))
    """
    node = record("Mul", (a, b), _mul_backward)
    if node is not None:
        save(node, b if a.requires_grad else None, a if b.requires_grad else None)  # other, self
    return made_by(result("mul", broadcast(a.shape, b.shape), common_dtype(a, b), a, b), node)


def _mul_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    other = result("mul", gradient.shape, gradient.dtype, gradient, saved[1]) if node.needs(1) else None
    own = result("mul", gradient.shape, gradient.dtype, gradient, saved[0]) if node.needs(0) else None
    return [own, other]


def mul_scalar(x: Sym) -> Sym:
    """Return x · number, shaped like x.

    Saves no tensor, the number suffices: backward is g · number, one tensor of x's size. Source: torch
    tools/autograd/derivatives.yaml (mul.Scalar).

    >>> from oomph.tape.testing import cost
    >>> cost(mul_scalar, (4, 256))
    Cost(allocated=2048, saved=0, backward=2048)
    """
    node = record("MulScalar", (x,), _scaled_backward)
    return made_by(result("mul", x.shape, x.dtype, x), node)


def _scaled_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result("mul", gradient.shape, gradient.dtype, gradient)]


def add(a: Sym, b: Sym) -> Sym:
    """Return a + b in their common shape and dtype.

    Saves nothing: both gradients are the incoming one, summed where an operand was broadcast. Source: torch
    tools/autograd/derivatives.yaml (add.Tensor).

    >>> from oomph.tape.testing import cost
    >>> cost(add, (4, 256), (4, 256)), cost(add, (4, 256), (256,)).backward
    (Cost(allocated=2048, saved=0, backward=0), 512)
    """
    node = record("Add", (a, b), _add_backward)
    return made_by(result("add", broadcast(a.shape, b.shape), common_dtype(a, b), a, b), node)


def _add_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    return [gradients[0] if node.needs(0) else None, gradients[0] if node.needs(1) else None]


def add_(x: Sym, other: Sym) -> Sym:
    """Return x += other, written into x, which is handed back with its new history. Allocates nothing.

    Saves nothing: both gradients are the incoming one, cast and summed to the operands. Source: torch
    tools/autograd/derivatives.yaml (add.Tensor).

    >>> from oomph.tape.testing import cost
    >>> cost(lambda a, b: add_(a, b), (4, 256), (4, 256))
    Cost(allocated=0, saved=0, backward=0)
    """
    return made_by(x, record("Add", (x, other), _add_backward))


def mul_(x: Sym) -> Sym:
    """Return x *= number (or x /= number), written into x, which is handed back with its new history.

    Saves no tensor: backward is g · number, one tensor. Source: torch tools/autograd/derivatives.yaml (mul.Scalar,
    div.Scalar).

    >>> from oomph.tape.testing import cost
    >>> cost(mul_, (4, 256))
    Cost(allocated=0, saved=0, backward=2048)
    """
    return made_by(x, record("MulScalar", (x,), _scaled_backward))


def scale_(x: Sym, factor: Sym) -> Sym:
    """Return x *= factor, a tensor that wants no gradient, written into x, which is handed back with its new history.

    Saves the factor: backward is g · factor, one tensor of x's size. Source: torch tools/autograd/derivatives.yaml
    (mul.Tensor).

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(scale_, (4, 256), frozen(1))
    Cost(allocated=0, saved=2, backward=2048)
    """
    node = record("Mul", (x,), _scale_backward)
    save(node, factor)
    return made_by(x, node)


def _scale_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result("mul", gradient.shape, gradient.dtype, gradient, saved[0])]


def sub(a: Sym, b: Sym) -> Sym:
    """Return a - b in their common shape and dtype.

    Saves nothing: a's gradient is the incoming one, b's is its negative, one tensor, summed where b was broadcast.
    Source: torch tools/autograd/derivatives.yaml (sub.Tensor).

    >>> from oomph.tape.testing import cost
    >>> cost(sub, (4, 256), (4, 256)), cost(sub, (4, 256), (4, 1)).backward
    (Cost(allocated=2048, saved=0, backward=2048), 2056)
    """
    node = record("Sub", (a, b), _sub_backward)
    return made_by(result("sub", broadcast(a.shape, b.shape), common_dtype(a, b), a, b), node)


def _sub_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    other = result("neg", gradient.shape, gradient.dtype, gradient) if node.needs(1) else None
    return [gradient if node.needs(0) else None, other]


def rsub(x: Sym) -> Sym:
    """Return number - x, shaped like x.

    Saves nothing: backward is -g, one tensor. Source: torch tools/autograd/derivatives.yaml (rsub.Scalar).

    >>> from oomph.tape.testing import cost
    >>> cost(rsub, (4, 256))
    Cost(allocated=2048, saved=0, backward=2048)
    """
    node = record("Rsub", (x,), _neg_backward)
    return made_by(result("rsub", x.shape, x.dtype, x), node)


def neg(x: Sym) -> Sym:
    """Return -x, shaped like x.

    Saves nothing: backward is -g, one tensor. Source: torch tools/autograd/derivatives.yaml (neg).

    >>> from oomph.tape.testing import cost
    >>> cost(neg, (4, 256))
    Cost(allocated=2048, saved=0, backward=2048)
    """
    node = record("Neg", (x,), _neg_backward)
    return made_by(result("neg", x.shape, x.dtype, x), node)


def _neg_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [result("neg", gradient.shape, gradient.dtype, gradient)]


def dropout(x: Sym, rate: float) -> Sym:
    """Return native_dropout(x): a result like x and a bool mask of one byte per element. x itself if nothing is to
    be dropped.

    Saves the mask, for the backward g · mask · scale, one tensor; x is not kept. Source: ATen/native/cuda/Dropout.cu,
    torch tools/autograd/derivatives.yaml (native_dropout).

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: dropout(x, 0.1), (4, 256))
    Cost(allocated=3072, saved=1024, backward=2048)
    """
    if not rate or not x.tape.dropout:
        return x
    node = record("Dropout", (x,), _dropout_backward)
    if x.tape.on == "gpu":  # Dropout.cu makes the mask first
        mask = result("native_dropout", x.shape, "bool", x)
        out = result("native_dropout", x.shape, x.dtype, x)
    else:
        out = result("native_dropout", x.shape, x.dtype, x)
        mask = result("native_dropout", x.shape, "bool", x)
    save(node, mask)
    return made_by(out, node)


def _dropout_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)  # what is made of it is contiguous: Dropout.cu, dropout_backward_cuda
    return [new(gradient.tape, gradient.shape, gradient.dtype, op="native_dropout_backward")]
