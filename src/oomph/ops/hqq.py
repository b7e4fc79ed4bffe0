"""Products with weights that HQQ packed: codes of 1 to 8 bits in bytes or words, whose weights never train.

torch's own operations unpack a weight for each use, forward and backward, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.ops.elementwise import grad
from oomph.ops.matmul import linear_unfused
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sizes import product
from oomph.tape.sym import Sym, new

IN_A_WORD = {1: 8, 2: 4, 3: 10, 4: 2}  # codes that a byte holds, of 3 bits those of an int32; 8 bits are not packed


@dataclass(frozen=True)
class HqqWeight:
    """A packed weight on the tape, [out, in] when it is unpacked to the dtype of its scales: codes [rows, group], which
    hold several numbers each, and a scale and a zero for every row of numbers.
    """

    shape: tuple[Any, ...]
    bits: int
    codes: Sym
    scale: Sym


def dequantise_hqq(weight: HqqWeight) -> Sym:
    """Return a packed weight as [out, in] in its scales' dtype: numbers, numbers less their zeros, the product with the
    scales, each as large as the weight; while numbers are taken out, masked and shifted codes.

    Saves nothing. Source: hqq 0.2.8, core/quantize.py, Quantizer.dequantize; core/bitpack.py.

    256·512 codes of 4 bits, masked and shifted (the lower ones are not), and three times 2 bytes of each:
    >>> from oomph.tape.testing import cost, frozen, hqq_weight
    >>> cost(lambda x: dequantise_hqq(hqq_weight(x.tape)), frozen(1)).allocated - 65536 - 4096
    983040
    """
    codes, dtype = weight.codes, weight.scale.dtype
    rows, columns = codes.shape
    numbers = like(codes, dtype, "to") if weight.bits not in IN_A_WORD else _unpacked(weight)
    del codes
    count = product(weight.shape) // columns  # words of three bits may hold more
    shape = (count, columns) if weight.bits in IN_A_WORD else (rows, columns)
    difference = new(numbers.tape, shape, dtype, op="sub")
    scaled = new(numbers.tape, shape, dtype, op="mul")
    del difference, numbers
    return Sym(weight.shape, dtype, (weight.shape[1], 1), scaled.storage)


def _unpacked(weight: HqqWeight) -> Sym:
    """Return all numbers of a packed weight, taken out place by place; those in the lowest bits need no shift."""
    codes, places = weight.codes, IN_A_WORD[weight.bits]
    rows, columns = codes.shape
    numbers = new(codes.tape, (places * rows, columns), weight.scale.dtype, op="empty")
    for place in range(places):
        masked = like(codes, codes.dtype, "bitwise_and")
        if place < places - 1:
            shifted = like(codes, codes.dtype, "bitwise_right_shift")
            del masked, shifted
        else:
            del masked
    return numbers


def matmul_hqq(x: Sym, weight: HqqWeight, bias: Sym | None = None) -> Sym:
    """Return x [.., K] with a packed weight [N, K] and a bias [N] to [.., N], as HQQ's default backend does it: the
    weight is unpacked in forward and anew in backward, the bias added in place.

    Saves x, which no gradient needs. Source: hqq 0.2.8, core/quantize.py, HQQMatmulNoCacheMul.

    >>> from oomph.tape.testing import cost, hqq_weight
    >>> cost(lambda x: matmul_hqq(x, hqq_weight(x.tape)), (2, 4, 256))
    Cost(allocated=1060864, saved=4096, backward=987136)
    """
    node = record("HQQMatmulNoCacheMul", (x,), _matmul_hqq_backward)
    out = _product(x, weight)
    if node is not None:
        node.context = weight
    save(node, x, bias)
    return made_by(out, node)


def _product(x: Sym, weight: HqqWeight) -> Sym:
    """Mirror HQQLinear.matmul."""
    with x.tape.no_grad():
        dequantised = dequantise_hqq(weight)
        out = linear_unfused(x.detach(), dequantised)
    del dequantised
    return out


def _matmul_hqq_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    dequantised = dequantise_hqq(node.context)
    own = new(gradient.tape, node.inputs[0][0], gradient.dtype, op="mm")
    del dequantised
    saved.clear()  # what a Python function is called with is gone before its results are looked at
    gradients.clear()
    return [own]
