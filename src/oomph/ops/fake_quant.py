"""Fake quantisation: numbers rounded to what few bits can say and brought back, so that training feels it.

torch's own operations one by one, as torchao writes them; gradients pass straight through the rounding. Scales are
fp32, so 16-bit numbers are spread out in fp32 on the way, and the clamp keeps them so for its backward pass.
"""

from __future__ import annotations

from oomph.ops.bounds import clamp_both
from oomph.ops.elementwise import add, cast, cast_back, mul, pass_through, result, sub
from oomph.ops.indexing import view
from oomph.tape.autograd import like, made_by, record
from oomph.tape.bound import Bound
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new


def fake_quantised(m: Bound, name: str, x: Sym, group: Size, symmetric: bool) -> Sym:
    """Return x, [.., K], as if it were quantised with a scale for every `group` of its numbers; the module keeps scales
    and zeros of its last call under `name`.

    Saves in fp32 what the clamp reads, and the scales twice. Source: torchao 0.18, quantization/qat/fake_quantizer.py,
    IntxFakeQuantizer; quant_primitives.py, _do_fake_quantize_affine.

    Of 4 x 256 numbers in bf16: four tensors in fp32, three in bf16, and numbers for each of four rows:
    >>> from types import SimpleNamespace
    >>> from oomph.tape.testing import cost
    >>> cost(lambda x: fake_quantised(SimpleNamespace(made={}), "x", x, 256, False), (4, 256)).saved
    4128
    """
    scale, zero_point = _parameters(x, group, symmetric)
    m.made[f"{name} scale"] = scale
    m.made[f"{name} zero point"] = zero_point
    if symmetric:
        m.made[f"{name} zero point"] = zero_point = like(zero_point, "int32", "to")
    places = (*x.shape[:-1], x.shape[-1] // group)
    scale, zero_point = view(scale, (*places, 1)), view(zero_point, (*places, 1))
    quant = _quantised(view(x, (*places, group)), scale, zero_point)
    return view(_dequantised(quant, scale, zero_point, x.dtype), x.shape)


def _parameters(x: Sym, group: Size, symmetric: bool) -> tuple[Sym, Sym]:
    """Mirror choose_qparams_affine: a scale in fp32 for each group of numbers, and a zero, in fp32 or int32."""
    shape, dtype = (*x.shape[:-1], x.shape[-1] // group), x.dtype
    min_val, max_val = (new(x.tape, shape, dtype, op=op) for op in ("amin", "amax"))
    min_val_neg, max_val_pos = _bounded(min_val, "minimum"), _bounded(max_val, "maximum")
    if symmetric:
        max_val_pos = result("maximum", shape, dtype, like(min_val_neg, dtype, "neg"), max_val_pos)
        scale = like(max_val_pos, dtype, "div")
        zero_point = like(scale, dtype, "full_like")
        scale = like(scale, dtype, "clamp")
    else:
        scale = like(result("sub", shape, dtype, max_val_pos, min_val_neg), dtype, "div")
        scale = like(scale, dtype, "clamp")
        zero_point = like(_rounded(result("div", shape, dtype, min_val_neg, scale)), dtype, "rsub")
        zero_point = like(zero_point, dtype, "clamp")
    made = _to(scale, "fp32"), _to(zero_point, "fp32" if symmetric else "int32")
    del min_val, max_val, min_val_neg, max_val_pos, scale, zero_point
    return made


def _bounded(x: Sym, op: str) -> Sym:
    return result(op, x.shape, x.dtype, x, like(x, x.dtype, "zeros_like"))


def _rounded(x: Sym) -> Sym:
    return like(x, x.dtype, "round")


def _to(x: Sym, dtype: str) -> Sym:
    return x if x.dtype == dtype else like(x, dtype, "to")


def _quantised(x: Sym, scale: Sym, zero_point: Sym) -> Sym:
    """Mirror _quantize_affine_no_dtype_cast: in fp32, as the scales are."""
    product = mul(x, like(like(scale, "fp32", "reciprocal"), "fp32", "mul"))
    rounded = made_by(_rounded(product), record("Round", (product,), pass_through))
    del product
    shifted = add(rounded, zero_point)
    del rounded
    return clamp_both(shifted)


def _dequantised(quant: Sym, scale: Sym, zero_point: Sym, dtype: str) -> Sym:
    """Mirror _dequantize_affine_no_dtype_check: a copy in the dtype of the numbers, less zeros, times fp32 scales."""
    dequant = made_by(like(quant, dtype, "to"), record("ToCopy", (quant,), cast_back))
    dequant = sub(dequant, _to(zero_point, dtype))
    dequant = mul(dequant, scale)
    return cast(dequant, dtype)
