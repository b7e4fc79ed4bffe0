"""Products with weights that AWQ packed: 4-bit codes in words of 32, unpacked by one kernel, and never trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.ops.elementwise import cast, grad, result
from oomph.ops.indexing import rows, view
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym, new

DTYPE = "fp16"  # of scales, of what is unpacked, and of what is computed
MANY_TOKENS = 1024  # from which on the weight is unpacked first (FP16_MATMUL_HEURISTIC_CONDITION)
SPLIT_K = 8  # partial sums of the kernel for fewer (split_k_iters)


@dataclass(frozen=True)
class AwqWeight:
    """A packed weight on the tape: qweight [K, N/8], qzeros [groups, N/8] and scales [groups, N]."""

    qweight: Sym
    qzeros: Sym
    scales: Sym

    @property
    def shape(self) -> tuple[Any, Any]:
        """Inputs and outputs."""
        return self.qweight.shape[0], self.scales.shape[1]


def matmul_awq(x: Sym, weight: AwqWeight, bias: Sym | None = None) -> Sym:
    """Return x [B, S, K] with a packed weight [K, N] and a bias [N] to [B, S, N] of x's dtype, as AutoAWQ trains: in
    fp16, from 1024 tokens on with the unpacked weight, for fewer in eight partial sums.

    Saves x in fp16, which no gradient needs. Backward unpacks the weight and repeats it for each sequence, B times the
    whole weight. Source: AutoAWQ 0.2.9, modules/linear/gemm.py, WQLinear_GEMM, WQLinearMMFunction; its CUDA and Triton
    kernels allocate the same.

    16 sequences of 64 tokens: in forward 68096 B packed and 262144 unpacked, x in fp16, a result in fp16 and bf16; in
    backward 17 times 262144, beside the gradients of the result and of x, the latter twice:
    >>> from oomph.tape.testing import awq_weight, cost
    >>> cost(lambda x: matmul_awq(x, awq_weight(x.tape)), (16, 64, 256))
    Cost(allocated=2951680, saved=592384, backward=6553600)
    """
    input_dtype = x.dtype
    x = cast(x, DTYPE)
    out = cast(_function(x, weight, bias), input_dtype)
    return out


def _function(x: Sym, weight: AwqWeight, bias: Sym | None) -> Sym:
    """Mirror WQLinearMMFunction.forward."""
    node = record("WQLinearMMFunction", (x,), _backward)
    save(node, x, weight.qweight, weight.qzeros, weight.scales, bias)
    if node is not None:
        node.context = weight
    shape = (rows(x), weight.shape[1])
    if yes(x.shape[0] * x.shape[1] >= MANY_TOKENS):
        dequantised = _dequantised(weight)
        out = new(x.tape, shape, DTYPE, op="mm")
        del dequantised
    else:
        partial = new(x.tape, (SPLIT_K, *shape), DTYPE, op="gemm_forward")
        out = new(x.tape, shape, DTYPE, op="sum")
        del partial
    if bias is not None:
        out = result("add", shape, DTYPE, out)
    return made_by(view(out.detach(), (*x.shape[:-1], weight.shape[1])), node)


def _dequantised(weight: AwqWeight) -> Sym:
    return new(weight.qweight.tape, weight.shape, DTYPE, op="dequantize_weights")


def _backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    weights = cast(_dequantised(node.context), gradient.dtype)
    into, out = weights.shape
    repeated = new(gradient.tape, (gradient.shape[0], out, into), gradient.dtype, op="repeat")
    own = new(gradient.tape, node.inputs[0][0], gradient.dtype, op="bmm")
    del repeated, weights
    saved.clear()  # what a Python function is called with is gone before its results are looked at
    gradients.clear()
    return [own]
