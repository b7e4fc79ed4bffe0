"""LayerNorm as one kernel. RMSNorm is no operation: models write it out, see blocks/basic.py."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad, in_fp32
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sym import Sym, new


def layer_norm(x: Sym, weight: Sym, bias: Sym) -> Sym:
    """Return native_layer_norm: the result, mean and rstd. Saves all but the result.

    In fp32 under autocast. On a CPU (and under a trace) mean and rstd have x's dtype; CUDA keeps them in fp32 (a few
    kB more).
    """
    x = in_fp32(x)
    node = record("LayerNorm", (x, weight, bias), _layer_norm_backward)
    save(node, bias, x)
    out = new(x.tape, x.shape, x.dtype, op="native_layer_norm")
    mean = new(x.tape, (*x.shape[:-1], 1), x.dtype, op="native_layer_norm")
    rstd = new(x.tape, (*x.shape[:-1], 1), x.dtype, op="native_layer_norm")
    save(node, weight)
    save(node, mean, rstd)
    del mean, rstd  # a std::tuple destroys its first element first
    return made_by(out, node)


def _layer_norm_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    tape = grad(gradients).tape
    return [
        new(tape, shape, dtype, op="native_layer_norm_backward") if node.needs(at) else None
        for at, (shape, dtype) in enumerate(node.inputs)
    ]
