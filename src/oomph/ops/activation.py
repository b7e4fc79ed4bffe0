"""Activation functions by the names configs give them (transformers 5.23, activations.py, ACT2FN)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oomph.errors import UnsupportedError
from oomph.ops.elementwise import grad, power, result
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sym import Sym


def silu(x: Sym) -> Sym:
    """Return x · sigmoid(x), shaped like x: one kernel each way.

    Saves x, for silu_backward, which makes the gradient at once: sigmoid is not kept. Source: torch
    tools/autograd/derivatives.yaml (silu), ATen/native/cuda/ActivationSiluKernel.cu.

    >>> from oomph.tape.testing import cost
    >>> cost(silu, (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    node = record("Silu", (x,), _with_saved)
    save(node, x)
    return made_by(result("silu", x.shape, x.dtype, x), node)


def tanh(x: Sym) -> Sym:
    """Return tanh(x), shaped like x.

    Saves the result, not x: backward is g · (1 - result²) in one kernel. Source: torch tools/autograd/derivatives.yaml
    (tanh, tanh_backward).

    >>> from oomph.tape.testing import cost
    >>> cost(tanh, (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    node = record("Tanh", (x,), _with_saved)
    out = result("tanh", x.shape, x.dtype, x)
    save(node, out)
    return made_by(out, node)


def sigmoid(x: Sym) -> Sym:
    """Return sigmoid(x), shaped like x.

    Saves the result, not x: backward is g · result · (1 - result) in one kernel. Source: torch
    tools/autograd/derivatives.yaml (sigmoid, sigmoid_backward).

    >>> from oomph.tape.testing import cost
    >>> cost(sigmoid, (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    node = record("Sigmoid", (x,), _with_saved)
    out = result("sigmoid", x.shape, x.dtype, x)
    save(node, out)
    return made_by(out, node)


def gelu_new(x: Sym) -> Sym:
    """Return NewGELUActivation, which transformers writes out instead of calling a kernel: eight tensors of x's size.

    Mirror: 0.5 * input * (1.0 + torch.tanh(c * (input + 0.044715 * torch.pow(input, 3.0))))

    Saves four of them: x for pow, tanh's result, and both factors of the last product; a matrix product that follows
    saves the result as a fifth. Source: transformers, activations.py, NewGELUActivation.

    >>> from oomph.tape.testing import cost
    >>> cost(gelu_new, (4, 256))
    Cost(allocated=16384, saved=8192, backward=18432)
    """
    return (x * 0.5) * (tanh((x + power(x) * 0.044715) * 0.8) + 1.0)


def gelu(x: Sym) -> Sym:
    """Return F.gelu(x), shaped like x, exact or with tanh: one kernel each way, unlike gelu_new.

    Saves x, from which backward computes the slope. Source: torch tools/autograd/derivatives.yaml (gelu).

    >>> from oomph.tape.testing import cost
    >>> cost(gelu, (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    node = record("Gelu", (x,), _with_saved)
    save(node, x)
    return made_by(result("gelu", x.shape, x.dtype, x), node)


def quick_gelu(x: Sym) -> Sym:
    """Return x * sigmoid(1.702 * x), shaped like x, in three tensors, of which one dies.

    Saves x and the sigmoid. Source: transformers 5.23, activations.py, QuickGELUActivation.

    >>> from oomph.tape.testing import cost
    >>> cost(quick_gelu, (4, 256))
    Cost(allocated=6144, saved=4096, backward=8192)
    """
    return x * sigmoid(x * 1.0)


def bloom_gelu(x: Sym) -> Sym:
    """Return BLOOM's GeLUFunction, an autograd function of its own, shaped like x: nine tensors of x's size, of which
    all but one die.

    Mirror: x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))

    Saves x alone: backward computes the tanh once more, in 18 tensors of x's size. Source: transformers 5.23,
    models/bloom/modeling_bloom.py, bloom_gelu_forward and bloom_gelu_back.

    >>> from oomph.tape.testing import cost
    >>> cost(bloom_gelu, (4, 256))
    Cost(allocated=18432, saved=2048, backward=36864)
    """
    node = record("GeLUFunction", (x,), _bloom_gelu_backward)
    with x.tape.no_grad():
        out = (x * 0.5) * (tanh((x * 0.8) * ((x * 0.04) * x + 1.0)) + 1.0)
    save(node, x)
    return made_by(out, node)


def _bloom_gelu_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    x = saved[0]
    tanh_out = tanh((x * 0.8) * ((x * 0.04) * x + 1.0))
    ff = (x * 0.5) * (((tanh_out * tanh_out) * 1.0) * ((x * 0.1) * x + 0.8)) + (tanh_out + 1.0) * 0.5
    return [ff * grad(gradients)]


def relu(x: Sym) -> Sym:
    """Return relu(x), shaped like x.

    Saves the result, not x: backward is g where it is above 0. Source: torch tools/autograd/derivatives.yaml (relu).

    >>> from oomph.tape.testing import cost
    >>> cost(relu, (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    node = record("Relu", (x,), _with_saved)
    out = result("relu", x.shape, x.dtype, x)
    save(node, out)
    return made_by(out, node)


def relu2(x: Sym) -> Sym:
    """Return ReLUSquared: relu(x)², shaped like x, two tensors.

    Saves relu's result twice over, which is one tensor, for both slopes; in fp32 under autocast, as pow asks for.
    Source: transformers 5.23, activations.py, ReLUSquaredActivation.

    >>> from oomph.tape.testing import cost
    >>> cost(relu2, (4, 256))
    Cost(allocated=4096, saved=2048, backward=8192)
    """
    relu_applied = relu(x)
    squared = power(relu_applied)
    return squared


def _with_saved(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Return the gradient that one kernel makes of the incoming one and what was saved (silu_backward and its like)."""
    gradient = grad(gradients)
    return [result(f"{node.name}_backward", gradient.shape, gradient.dtype, gradient, saved[0])]


def sqrt_softplus(x: Sym) -> Sym:
    """Return sqrt(softplus(x)), shaped like x, in fp32 under autocast: DeepSeek-V4's scores of experts.

    Saves x, and the result: backward of the root takes two tensors. Source: transformers 5.23, activations.py,
    SqrtSoftplusActivation.

    >>> from oomph.tape.testing import cost
    >>> cost(sqrt_softplus, (4, 256))
    Cost(allocated=4096, saved=4096, backward=6144)
    """
    from oomph.ops.altup import root
    from oomph.ops.scan import softplus

    return root(softplus(x))


ACTIVATIONS: dict[str, Callable[[Sym], Sym]] = {
    "gelu": gelu,
    "gelu_new": gelu_new,
    "gelu_python_tanh": gelu,
    "gelu_pytorch_tanh": gelu,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "relu2": relu2,
    "sigmoid": sigmoid,
    "silu": silu,
    "sqrtsoftplus": sqrt_softplus,
    "swish": silu,
    "tanh": tanh,
}


def activate(name: str, x: Sym) -> Sym:
    """Return x through the activation of that name, shaped like x; refused where there is no rule for it.

    Saves what that activation saves. Source: transformers 5.23, activations.py, ACT2FN.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: activate("swish", x), (4, 256))
    Cost(allocated=2048, saved=2048, backward=2048)
    """
    if name not in ACTIVATIONS:
        raise UnsupportedError(f"oomph cannot play the activation {name[:40]!r} yet.", "Trace it instead: oomph trace.")
    return ACTIVATIONS[name](x)
