"""Products with weights of 8 bits as bitsandbytes computes them (LLM.int8), whose weights never train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.ops.elementwise import cast, grad
from oomph.ops.indexing import reshaped, rows, view
from oomph.ops.kernel import run
from oomph.tape.autograd import Gradients, Node, like, made_by, record
from oomph.tape.sym import Sym, new
from oomph.workspaces import OUTPUTS, Buffer, Freed


@dataclass(frozen=True)
class Int8Weight:
    """Codes [N, K] and the largest value of each row [N] in fp32."""

    codes: Sym
    scales: Sym


def matmul_8bit(x: Sym, weight: Int8Weight, bias: Sym | None = None) -> Sym:
    """Return x [.., K] with a weight [N, K] of 8 bits and a bias [N] to [.., N], of x's dtype.

    x is quantised by rows, in fp16 whatever it was; a GPU looks for outliers first (none is assumed to be found) and
    holds the products in int32 and in fp16 before they are cast. x itself is kept, not as a saved tensor but as long as
    the graph, so that checkpointing without reentrance does not free it; backward casts the whole weight to x's dtype.
    Source: bitsandbytes 0.50, autograd/_functions.py, MatMul8bitLt; backends/cuda/ops.py, int8_vectorwise_quant,
    int8_linear_matmul, int8_mm_dequant.

    512·256·2 B of weight in backward, its 512 scaled scales, and 8·256·2 B of gradient:
    >>> from oomph.tape.testing import cost
    >>> def product(x):
    ...     codes, scales = x.tape.empty((512, 256), "int8"), x.tape.empty((512,), "fp32")
    ...     return matmul_8bit(x, Int8Weight(codes, scales))
    >>> cost(product, (2, 4, 256))
    Cost(allocated=178208, saved=0, backward=268288)
    """
    node = record("MatMul8bitLt", (x,), _matmul_8bit_backward)
    with x.tape.no_grad():
        a = view(x, (rows(x), x.shape[-1]))
        quantised, row_stats = _quantise(cast(a, "fp16"))
        output = _scaled_mm(quantised, weight, a.dtype)
    if node is not None:
        node.context = (weight, a.detach())
    del a, quantised, row_stats  # the frame's locals die in their order
    return made_by(reshaped(output, (*x.shape[:-1], weight.codes.shape[0])), node)


def _quantise(a: Sym) -> tuple[Sym, Sym]:
    """Return codes [T, K] and the largest value of each row."""
    tape = a.tape
    if tape.on == "trace":  # which sees the results in the order in which they are returned
        codes = new(tape, a.shape, "int8", op="int8_vectorwise_quant")
        return codes, new(tape, a.shape[:1], "fp32", op="int8_vectorwise_quant")
    row_stats = new(tape, a.shape[:1], "fp32", op="int8_vectorwise_quant")
    codes = new(tape, a.shape, "int8", op="int8_vectorwise_quant")
    run(
        tape, (Buffer("abs", a.shape, "fp16"), Buffer("outliers", a.shape, "bool"), Freed("abs"), OUTPUTS), lambda: None
    )
    return codes, row_stats


def _scaled_mm(a: Sym, weight: Int8Weight, dtype: str) -> Sym:
    """Return the product of codes in a dtype: the kernel makes fp16 of int32, anything else is a copy of that."""
    shape = (a.shape[0], weight.codes.shape[0])
    buffers = [Buffer("int8_linear_matmul", shape, "int32")]
    if dtype != "fp16":
        buffers.append(Buffer("int8_mm_dequant", shape, "fp16"))
    return run(a.tape, (*buffers, OUTPUTS), lambda: new(a.tape, shape, dtype, op="int8_scaled_mm"))


def _matmul_8bit_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    weight, a = node.context
    gradient = grad(gradients)
    dequantised = like(weight.codes, a.dtype)
    new(gradient.tape, (weight.scales.shape[0], 1), "fp32", op="mul")
    gradient = cast(gradient, a.dtype)
    own = new(gradient.tape, node.inputs[0][0], a.dtype, op="mm")
    del dequantised
    return [own]
