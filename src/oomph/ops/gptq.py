"""Products with weights that GPTQ packed: codes of 2, 4 or 8 bits in words of 32, whose weights never train.

A weight is unpacked for each use. Who computes the product decides how long it then lies there: torch's own product
keeps it for the input's gradient, an autograd function of its own unpacks it again in backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.ops.elementwise import add, cast, grad
from oomph.ops.indexing import add_to_view, rows, view
from oomph.ops.matmul import autocast_argument, mm
from oomph.tape.autograd import Gradients, Node, like, made_by, record, save
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym, new

WORD_BITS = 32
FEW_ROWS = 128  # below which auto_gptq's own kernel computes, unless something trains (kernel_switch_threshold)
# Codes become numbers that can hold their difference to a zero point.
CODES = {2: "int8", 4: "int8", 8: "int16"}


@dataclass(frozen=True)
class GptqWeight:
    """A packed weight on the tape, unpacked [K, N]: qweight [K·bits/32, N], qzeros [groups, N·bits/32], scales
    [groups, N] and g_idx [K], the group of each input.
    """

    bits: int
    qweight: Sym
    qzeros: Sym
    scales: Sym
    g_idx: Sym

    @property
    def shape(self) -> tuple[Any, Any]:
        """Inputs and outputs."""
        return self.g_idx.shape[0], self.scales.shape[1]


def matmul_gptq(x: Sym, weight: GptqWeight, bias: Sym | None = None) -> Sym:
    """Return x [.., K] with a packed weight [K, N] and a bias [N] to [.., N], as GPTQModel trains: a compiled function
    unpacks the weight in the scales' dtype, it is cast to x's, the bias is added in place.

    Saves the unpacked weight, for the input's gradient: all of a layer's at once, those of all layers without
    checkpointing. What the compiled function takes in between is not known and not counted. Source: GPTQModel 7.7,
    nn_modules/qlinear/torch.py, TorchLinear._forward_eager; TritonV2Linear trains the same way.

    69120 B packed, unpacked to fp16 and cast to x's bf16, each 512·256·2 B, and a result of 4·512·2 B:
    >>> from oomph.tape.testing import cost, gptq_weight
    >>> cost(lambda x: matmul_gptq(x, gptq_weight(x.tape)), (4, 256))
    Cost(allocated=597504, saved=262144, backward=2048)
    """
    out_shape = (*x.shape[:-1], weight.shape[1])
    x = view(x, (rows(x), x.shape[-1]))
    weights = cast(new(x.tape, weight.shape, weight.scales.dtype, op="dequantize_weight"), x.dtype)
    out = view(_matmul(x, weights), out_shape)
    if bias is None:
        return out
    added = cast(bias, out.dtype)
    out = add_to_view(out, added)
    del weights, added  # the frame's locals die in their order
    return out


def _matmul(x: Sym, matrix: Sym) -> Sym:
    """Return torch.matmul of two matrices; the casts of autocast die with it, unless they are kept."""
    matrix = autocast_argument(matrix)
    x = autocast_argument(x)
    return mm(x, matrix)


def matmul_gptq_old(x: Sym, weight: GptqWeight, bias: Sym | None = None) -> Sym:
    """Return x [.., K] with a packed weight [K, N] and a bias [N] to [.., N], as AutoGPTQ's old kernel trains: torch's
    own operations unpack the weight one after the other, words of 32 bits for each of its elements among them.

    Saves the unpacked weight, for the input's gradient. Outside of training fewer than 128 rows go to a kernel of its
    own, which wants input, scales and result in fp32. Source: auto_gptq 0.5 to 0.7,
    nn_modules/qlinear/qlinear_cuda_old.py, QuantLinear.forward.

    >>> from oomph.tape.testing import cost, gptq_weight
    >>> cost(lambda x: matmul_gptq_old(x, gptq_weight(x.tape)), (4, 256))
    Cost(allocated=1260032, saved=262144, backward=2048)
    """
    out_shape = (*x.shape[:-1], weight.shape[1])
    x_dtype = x.dtype
    x = view(x, (rows(x), x.shape[-1]))
    if not x.tape.training and yes(x.shape[0] < FEW_ROWS):
        out = new(x.tape, (x.shape[0], weight.shape[1]), "fp32", op="zeros")
        x = cast(x, "fp32")
        cast(weight.scales, "fp32")
        out = view(cast(out, x_dtype), out_shape)
        if bias is not None:
            out = add(out, bias)
        return out
    unpacked, zeros = unpack(weight)
    out = view(_matmul(x, unpacked), out_shape)
    if bias is not None:
        out = add(out, bias)
    del zeros, unpacked  # the frame's locals die in their order
    return out


def unpack(weight: GptqWeight) -> tuple[Sym, Sym]:
    """Return a packed weight as [K, N] in its scales' dtype, and its zero points as codes, by operations of torch:
    shifted words, codes, masked codes, their difference to the zero points, its product with the scales.

    Saves nothing. Source: auto_gptq 0.5, nn_modules/qlinear/qlinear_cuda_old.py.

    69120 B packed, 256·512 words of 4 B, three times codes of 1 B, the result of 2 B; 2·512 zero points likewise:
    >>> from oomph.tape.testing import cost, frozen, gptq_weight
    >>> cost(lambda x: unpack(gptq_weight(x.tape)), frozen(1)).allocated
    1255936
    """
    tape, codes, per_word = weight.qweight.tape, CODES[weight.bits], WORD_BITS // weight.bits
    zeros = new(tape, (*weight.qzeros.shape, per_word), "int32", op="bitwise_right_shift")
    zeros = like(zeros, codes)
    zeros = like(zeros, codes, "add")
    zeros = like(zeros, codes, "bitwise_and")
    words, columns = weight.qweight.shape
    unpacked = new(tape, (words, per_word, columns), "int32", op="bitwise_right_shift")
    unpacked = like(unpacked, codes)
    unpacked = like(unpacked, codes, "bitwise_and")
    difference = like(unpacked, codes, "sub")
    scaled = like(difference, weight.scales.dtype, "mul")
    del difference
    return Sym(weight.shape, scaled.dtype, (weight.shape[1], 1), scaled.storage), zeros


def matmul_gptq_triton(x: Sym, weight: GptqWeight, bias: Sym | None = None) -> Sym:
    """Return x [.., K] with a packed weight [K, N] and a bias [N] to [.., N], as AutoGPTQ's second Triton kernel and
    fms-acceleration train: an autograd function of its own unpacks the weight to fp16, in backward once more.

    Saves the packed weight, which is there anyway, and no input. Source: auto_gptq 0.7 and fms-acceleration,
    nn_modules/qlinear/qlinear_tritonv2.py and triton_utils/dequant.py, QuantLinearFunction.

    69120 B packed and 262144 unpacked; results and gradients in fp16 and x's bf16:
    >>> from oomph.tape.testing import cost, gptq_weight
    >>> cost(lambda x: matmul_gptq_triton(x, gptq_weight(x.tape)), (4, 256))
    Cost(allocated=339456, saved=69120, backward=268288)
    """
    out_shape = (*x.shape[:-1], weight.shape[1])
    flat = view(x, (rows(x), x.shape[-1]))
    node = record("QuantLinearFunction", (flat,), _triton_backward)
    dequantised = _dequantised(weight)
    with x.tape.no_grad():
        out = _matmul(flat, dequantised)
    del dequantised
    if node is not None:
        node.context = weight
        save(node, weight.qweight, weight.scales, weight.qzeros, weight.g_idx)
    out = view(cast(made_by(out, node), "fp16"), out_shape)
    return out if bias is None else add(out, bias)


def matmul_gptq_exllama(x: Sym, weight: GptqWeight, bias: Sym | None = None) -> Sym:
    """Return x [.., K] with a packed weight [K, N] and a bias [N] to [.., N] in fp16, as ExLlama's first kernel does: a
    few rows with the packed weight, more with one unpacked into a room that is there (see `exllama_rooms`).

    Saves nothing: it has no backward. Source: auto_gptq 0.7, nn_modules/qlinear/qlinear_exllama.py,
    QuantLinear.forward.

    >>> from oomph.tape.testing import cost, frozen, gptq_weight
    >>> cost(lambda x: matmul_gptq_exllama(x, gptq_weight(x.tape)), frozen(4, 256)).allocated - 69120  # packed
    6144
    """
    out_shape = (*x.shape[:-1], weight.shape[1])
    x = cast(x, "fp16")
    out = view(new(x.tape, (rows(x), weight.shape[1]), "fp16", op="q4_matmul"), out_shape)
    return out if bias is None else add_to_view(out, bias)


PRODUCTS = {
    "gptqmodel": matmul_gptq, "cuda-old": matmul_gptq_old, "triton": matmul_gptq_triton, "exllama": matmul_gptq_exllama,
}  # fmt: skip


def _dequantised(weight: GptqWeight) -> Sym:
    return new(weight.qweight.tape, weight.shape, "fp16", op="dequant248")


def _triton_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, dequantised = grad(gradients), _dequantised(node.context)
    own = new(gradient.tape, node.inputs[0][0], gradient.dtype, op="mm") if node.needs(0) else None
    del dequantised
    return [own]
