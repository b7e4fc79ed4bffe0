"""Products with weights of 8-bit floating point that have a scale for each block (DeepSeek's, Qwen's FP8)."""

from __future__ import annotations

from dataclasses import dataclass

from oomph.errors import UnsupportedError
from oomph.ops.elementwise import add
from oomph.tape.sym import Sym, new

DTYPE = "fp8_e4m3"


@dataclass(frozen=True)
class Fp8Weight:
    """Codes [N, K], and a scale for each block of 128 times 128 of them."""

    codes: Sym
    scales: Sym


def matmul_fp8(x: Sym, weight: Fp8Weight, bias: Sym | None = None) -> Sym:
    """Return x [.., K] with FP8 codes [N, K] and a bias [N] to [.., N] of x's dtype: x is quantised too, with a scale
    for each 128 of its elements, one kernel multiplies both; a bias is added out of place.

    Saves nothing: it is played without gradients alone. Source: transformers 4.51, integrations/finegrained_fp8.py,
    FP8Linear.forward, act_quant, w8a8_block_fp8_matmul_triton; 5.23's kernel takes the same.

    4·256 codes, 4·2 scales of 4 B, and a result of 4·512·2 B:
    >>> from oomph.tape.testing import cost, frozen, fp8_weight
    >>> cost(lambda x: matmul_fp8(x, fp8_weight(x.tape)), frozen(4, 256)).allocated - 131104  # stored
    5152
    """
    if x.requires_grad:
        raise UnsupportedError("oomph plays FP8 weights without gradients alone.", "Choose another --quantization.")
    quantised = new(x.tape, x.shape, DTYPE, op="act_quant")
    scale = new(x.tape, (*x.shape[:-1], weight.scales.shape[1]), "fp32", op="act_quant")
    output = new(x.tape, (*x.shape[:-1], weight.codes.shape[0]), x.dtype, op="_scaled_mm")
    if bias is not None:
        output = add(output, bias)
    del quantised, scale  # the frame's locals die in their order
    return output
