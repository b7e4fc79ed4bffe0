"""LayerNorm as one kernel. RMSNorm is no operation: models write it out, see blocks/basic.py."""

from __future__ import annotations

from typing import Any

from oomph.ops.bounds import clamp
from oomph.ops.elementwise import grad, in_fp32, result, wider
from oomph.ops.indexing import expand
from oomph.ops.kernel import run
from oomph.ops.routing import divide
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sym import Sym, elementwise_strides, new
from oomph.workspaces import OUTPUTS, Buffer


def layer_norm(x: Sym, weight: Sym | None, bias: Sym | None) -> Sym:
    """Return native_layer_norm of x [.., H] with weight and bias [H], if any: the result, mean and rstd [.., 1], in
    fp32 under autocast.

    Saves x, mean and rstd for x's gradient and the weight's (x normed again from them), the weight for x's, and the
    bias, which the kernel is handed too; under autocast fp32 copies of what is in 16 bit. CUDA makes mean and rstd in
    fp32; on a CPU and under a trace they have x's dtype. Source: ATen/native/cuda/layer_norm_kernel.cu, torch
    tools/autograd/derivatives.yaml (native_layer_norm).

    >>> from oomph.tape.testing import cost
    >>> cost(layer_norm, (4, 256), (256,), (256,))
    Cost(allocated=2080, saved=3104, backward=3072)
    >>> cost(lambda x: layer_norm(x, None, None), (4, 256))
    Cost(allocated=2080, saved=2080, backward=2048)
    """
    x = in_fp32(x)
    weight = weight and in_fp32(weight)
    bias = bias and in_fp32(bias)
    given = [one for one in (weight, bias) if one is not None]
    node = record("LayerNorm", (x, *given), _layer_norm_backward)
    save(node, bias, x)
    out = new(x.tape, x.shape, x.dtype, op="native_layer_norm")
    moments = "fp32" if x.tape.on == "gpu" else x.dtype
    mean = new(x.tape, (*x.shape[:-1], 1), moments, op="native_layer_norm")
    rstd = new(x.tape, (*x.shape[:-1], 1), moments, op="native_layer_norm")
    save(node, weight)
    save(node, mean, rstd)
    del mean, rstd  # a std::tuple destroys its first element first
    return made_by(out, node)


def unit_rows(x: Sym) -> Sym:
    """Return F.normalize(x) of a matrix [V, H]: each row divided by its length, in fp32 under autocast.

    Saves x, the lengths [V, 1] before and after they are bounded from below, the latter for both operands of the
    quotient; of a frozen matrix nothing. Source: torch/nn/functional.py, normalize; ATen/autocast_mode.h (norm).

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(unit_rows, (4, 256)), cost(unit_rows, frozen(4, 256)).saved
    (Cost(allocated=2064, saved=2064, backward=14362), 0)
    """
    tape, (rows, _) = x.tape, x.shape
    dtype = "fp32" if tape.autocast is not None and not tape.autocast_paused else x.dtype
    node = record("VectorNorm", (x,), _lengths_backward)
    lengths = new(tape, (rows, 1), dtype, op="linalg_vector_norm")
    save(node, x, lengths)
    lengths = made_by(lengths, node)
    bounded = clamp(lengths)
    del lengths
    return divide(x, expand(bounded, x.shape))


def _lengths_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (x, lengths) = grad(gradients), saved
    directions = result("div", x.shape, wider(x.dtype, lengths.dtype), x)
    empty = result("eq", lengths.shape, "bool", lengths)
    own = result("mul", x.shape, wider(directions.dtype, gradient.dtype), directions)
    del empty, directions, x, lengths
    return [own]


def _layer_norm_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    """Make the gradients that are wanted. CUDA's kernel reads a contiguous gradient; what a trace runs in its place
    gives x's the layout of an fp32 gradient (torch/_decomp/decompositions.py).
    """
    gradient, (shape, dtype) = grad(gradients), node.inputs[0]
    gaps = not gradient.is_contiguous()
    strides = (
        elementwise_strides(shape, (gradient,)) if gaps and gradient.tape.on == "trace" and dtype == "fp32" else None
    )

    def made() -> Gradients:
        return [
            new(gradient.tape, each, kind, None if at else strides, "native_layer_norm_backward")
            if node.needs(at)
            else None
            for at, (each, kind) in enumerate(node.inputs)
        ]

    steps = (Buffer("dY", gradient.shape, gradient.dtype), OUTPUTS) if gaps else (OUTPUTS,)
    return run(gradient.tape, steps, made)
