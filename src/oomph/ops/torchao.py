"""Products with weights of one byte that torchao made: int8 and FP8 codes with a scale for each output.

A tensor subclass takes the place of the weight, F.linear goes to torchao's function, and that is torch's own operations
one by one, with gradients recorded: each product keeps the weight it multiplied with for the gradient of its input.
"""

from __future__ import annotations

from dataclasses import dataclass

from oomph.ops.elementwise import add, cast, mul, result
from oomph.ops.indexing import add_to_view, rows, transpose, view
from oomph.ops.matmul import autocast_argument, mm, times_rows
from oomph.tape.autograd import like
from oomph.tape.sym import Sym


@dataclass(frozen=True)
class TorchaoWeight:
    """Codes [N, K] of a byte and their scales [N, 1] in fp32, on the tape; `dtype` is what the weight passes for."""

    codes: Sym
    scales: Sym
    dtype: str


def matmul_int8_torchao(x: Sym, weight: TorchaoWeight, bias: Sym | None = None) -> Sym:
    """Return x [.., K] with an int8 weight [N, K] and a bias [N] to [.., N]: codes are cast to x's dtype, the product
    is multiplied by the scales, the bias is added in place.

    Saves the cast codes, a whole weight, and the cast scales for the input's gradient: those of all layers without
    checkpointing. x itself is not kept. Source: torchao 0.18, quantization/quantize_/workflows/int8/int8_tensor.py.

    133120 B of codes and scales, the codes cast to bf16, the scales, 4·512 numbers twice; the product's gradient, x's:
    >>> from oomph.tape.testing import cost, torchao_weight
    >>> cost(lambda x: matmul_int8_torchao(x, torchao_weight(x.tape)), (4, 256))
    Cost(allocated=404480, saved=263168, backward=6144)
    """
    output_dtype = x.dtype
    flat = view(x, (rows(x), x.shape[-1]))
    matrix = like(transpose(weight.codes, 0, 1), output_dtype, "to")
    m = _product(flat, matrix)
    del matrix  # an argument, which lived through the call
    y = mul(m, view(cast(weight.scales, m.dtype), (weight.scales.shape[0],)))
    y = view(y, (*x.shape[:-1], weight.codes.shape[0]))
    if bias is not None:
        y = add_to_view(y, bias)
    out = cast(y, output_dtype)
    del y, m  # the frame's locals die in their order
    return out


def _product(x: Sym, matrix: Sym) -> Sym:
    """Return torch.mm; the casts of autocast die with it, unless they are kept."""
    matrix = autocast_argument(matrix)
    x = autocast_argument(x)
    return mm(x, matrix)


def matmul_fp8_torchao(x: Sym, weight: TorchaoWeight, bias: Sym | None = None) -> Sym:
    """Return x [.., K] with an FP8 weight [N, K] and a bias [N] to [.., N]: the weight is dequantised in fp32, brought
    to the dtype it passes for and multiplied as any other that does not train.

    Saves the dequantised weight for the input's gradient: those of all layers without checkpointing. While one is made
    it is there in fp32 twice. Source: torchao 0.18, quantization/quantize_/workflows/float8/float8_tensor.py,
    _float8_addmm_impl; quant_primitives.py, _dequantize_affine_float8.

    133120 B of codes and scales, 131072 numbers in fp32 twice and in bf16, 4·512 numbers; x's gradient:
    >>> from oomph.tape.testing import cost, torchao_weight
    >>> cost(lambda x: matmul_fp8_torchao(x, torchao_weight(x.tape)), (4, 256))
    Cost(allocated=1447936, saved=262144, backward=2048)
    """
    matrix = _dequantised(weight)
    out = times_rows(x, matrix)
    del matrix  # an argument, which lived through the call
    return out if bias is None else add(out, bias)


def _dequantised(weight: TorchaoWeight) -> Sym:
    """Mirror Float8Tensor.dequantize of a weight that is turned, [K, N]."""
    fp8_tensor = like(transpose(weight.codes, 0, 1), "fp32", "to")
    hp_tensor = result("mul", fp8_tensor.shape, "fp32", fp8_tensor)
    made = cast(hp_tensor, weight.dtype)
    del fp8_tensor, hp_tensor  # the frame's locals die in their order
    return made
