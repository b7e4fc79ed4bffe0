"""Products with quantised weights: bitsandbytes' 4-bit and 8-bit maps, whose weights never train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.ops.elementwise import grad
from oomph.ops.kernel import run
from oomph.tape.autograd import Gradients, Node, like, made_by, record
from oomph.tape.sizes import product, yes
from oomph.tape.sym import Sym, new
from oomph.workspaces import dequantised_linear

CUSTOM_ROWS = 4  # up to so many rows the fused kernel needs no dequantised weight (_GEMM_4BIT_CUSTOM_FLOOR_M)


@dataclass(frozen=True)
class FourBitWeight:
    """A packed weight [N, K] on the tape: `absmax` its scales, 8-bit codes where `nested`, `dtype` what it becomes.

    `unfused`: as bitsandbytes before 0.50 multiplied, it becomes that first, then what the input is. `keeps_inputs`:
    what it was multiplied with lives as long as the graph.
    """

    shape: tuple[Any, Any]
    absmax: Sym
    dtype: str
    unfused: bool = False
    keeps_inputs: bool = False

    @property
    def nested(self) -> bool:
        """Tell whether the scales are quantised too."""
        return self.absmax.dtype == "uint8"


def matmul_4bit(x: Sym, weight: FourBitWeight, bias: Sym | None = None) -> Sym:
    """Return x [.., K] with a packed weight [N, K] and a bias [N] to [.., N], of x's dtype.

    Saves nothing but the weight that is there anyway, so no input is kept; backward dequantises the whole weight (and
    first its scales, where they are quantised) for g @ W. On a GPU the forward pass does so too, but for a few rows,
    where a fused kernel reads the packed weight; which number is few depends on the GPU and the shape, up to 1536 rows,
    here as few as on all. Up to 0.42 x was kept, not as a saved tensor but as long as the graph. Source: bitsandbytes
    0.50, autograd/_functions.py, MatMul4Bit; backends/cuda/ops.py, _dequant_linear_fallback.

    512·256·2 B of dequantised weight each way, and scales of 2048 blocks; x alone is bf16:
    >>> from oomph.tape.testing import cost
    >>> def product(x):
    ...     absmax = x.tape.empty((2048,), "fp32", op="given")
    ...     return matmul_4bit(x, FourBitWeight((512, 256), absmax, "bf16"))
    >>> cost(product, (2, 4, 256))
    Cost(allocated=278528, saved=0, backward=266240)
    """
    node = None
    if x.requires_grad or (bias is not None and bias.requires_grad):
        node = record("MatMul4Bit", (x,) if bias is None else (x, bias), _matmul_4bit_backward)
    if node is not None:
        node.context = (weight, x.detach() if weight.keeps_inputs or x.tape.keeps_inputs else None)

    def result() -> Sym:
        return new(x.tape, (*x.shape[:-1], weight.shape[0]), x.dtype, op="gemm_4bit")

    if not weight.unfused and yes(product(x.shape[:-1]) <= CUSTOM_ROWS):
        return made_by(result(), node)
    first = weight.dtype if weight.unfused else ""
    steps = dequantised_linear(weight.shape, weight.absmax.shape, x.dtype, weight.nested, first)
    return made_by(run(x.tape, steps, result), node)


def _matmul_4bit_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, (weight, _) = grad(gradients), node.context
    tape = gradient.tape
    of_bias = None
    if len(node.inputs) > 1 and node.needs(1):
        of_bias = new(tape, gradient.shape[1:], node.inputs[1][1], op="sum")
    own = None
    if node.needs(0):
        dequantised = dequantise_4bit(tape, weight)
        if weight.dtype != gradient.dtype:
            dequantised = like(dequantised, gradient.dtype)
        own = new(tape, node.inputs[0][0], gradient.dtype, op="mm")
        del dequantised
    return [own, of_bias] if len(node.inputs) > 1 else [own]


def dequantise_4bit(tape: Any, weight: FourBitWeight) -> Sym:
    """Return a packed weight as [N, K] in the dtype it was quantised from; nested scales become fp32 for that time.

    Saves nothing. Source: bitsandbytes 0.50, functional.py, dequantize_4bit.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda x: dequantise_4bit(x.tape, FourBitWeight((512, 256), x, "bf16")), frozen(2048)).allocated
    262144
    """
    absmax = new(tape, weight.absmax.shape, "fp32", op="dequantize_blockwise") if weight.nested else None
    out = new(tape, weight.shape, weight.dtype, op="dequantize_4bit")
    del absmax
    return out


def set_dtype(parameter: Sym, dtype: str) -> None:
    """Play `parameter.data = parameter.data.to(dtype)`: for good, nothing if it is that already.

    Saves nothing. Source: bitsandbytes 0.50, nn/modules.py, Linear4bit.forward.

    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda bias: set_dtype(bias, "fp32"), frozen(256)).allocated
    1024
    """
    if parameter.dtype != dtype:
        copy = like(parameter, dtype)
        parameter.tape.recorder.name(copy.storage.ordinal, parameter.made_for, "parameter")
        parameter.storage, parameter.dtype = copy.storage, dtype
