"""Products with weights of 8 bits that train, as Q-GaLore computes them: gradients are kept beside the codes."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad
from oomph.ops.indexing import reshaped, rows
from oomph.ops.matmul import linear_unfused, times_rows
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sym import Sym, new


def int8_linear(x: Sym, weight: Sym, bias: Sym | None = None) -> Sym:
    """Return x [.., K] with codes [N, K] that train and a bias [N] to [.., N]: codes are made numbers of x's dtype, in
    place but for the cast.

    Saves x. Backward makes the numbers anew for x's gradient; then the weight's, which is no gradient of autograd's (a
    uint8 tensor can have none) but kept on it and added to, with a whole second one beside it while it is. Source:
    github.com/VITA-Group/Q-GaLore, q_galore_torch/utils/quantization.py, W8Linear.

    512·256·2 B of numbers each way, 2·4·512·2 B of result, as much of gradients:
    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: int8_linear(x, x.tape.parameter((512, 256), "uint8", False)), (2, 4, 256))
    Cost(allocated=401408, saved=4096, backward=528384)
    """
    node = record("W8Linear", (x,) if bias is None else (x, bias), _int8_linear_backward)
    with x.tape.no_grad():
        float_weight = like(weight, x.dtype)
        out = linear_unfused(x, float_weight, bias)
    del float_weight
    if node is not None:
        node.in_python = True
        node.context = weight  # its codes are other ones after an update
    save(node, x, bias)
    return made_by(out, node)


def _int8_linear_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    weight, gradient = node.context, grad(gradients)
    float_weight = like(weight, gradient.dtype)
    own = times_rows(gradient, float_weight)
    del float_weight
    of_bias = new(gradient.tape, gradient.shape[-1:], gradient.dtype, op="sum") if len(node.inputs) > 1 else None
    _add_gradient(weight, gradient, saved[0])
    if gradient.tape.on_gradient is not None:
        gradient.tape.on_gradient(weight)  # the hook that Q-GaLore calls itself
    saved.clear()  # what a Python function is called with is gone before its results are looked at
    gradients.clear()
    return [own, of_bias][: len(node.inputs)]


def _add_gradient(weight: Sym, gradient: Sym, x: Sym) -> None:
    left, right = (reshaped(one, (rows(one), one.shape[-1])) for one in (gradient, x))
    made = new(weight.tape, weight.shape, gradient.dtype, op="mm")
    del left, right
    if weight.grad is None:
        weight.grad = made
        weight.tape.recorder.name(made.storage.ordinal, weight.made_for, "gradient")
