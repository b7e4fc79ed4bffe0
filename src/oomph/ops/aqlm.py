"""Products with weights that AQLM packed: codes of vectors in codebooks, unpacked by one kernel, and never trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.errors import UsageError
from oomph.ops.elementwise import grad
from oomph.ops.indexing import rows
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym, new

FEW_TOKENS = 6  # up to which vectors are multiplied with codes as they are (use_gemv_rule)


@dataclass(frozen=True)
class AqlmWeight:
    """A packed weight on the tape: codebooks [books, entries, 1, g], codes [N, K/g, books] and scales [N, 1, 1, 1]."""

    codebooks: Sym
    codes: Sym
    scales: Sym

    @property
    def shape(self) -> tuple[Any, Any]:
        """Outputs and inputs."""
        return self.codes.shape[0], self.codes.shape[1] * self.codebooks.shape[3]


def matmul_aqlm(x: Sym, weight: AqlmWeight) -> Sym:
    """Return x [.., K] with a packed weight [N, K] to [.., N], as the CUDA kernels do it: of more than six tokens with
    the unpacked weight. The product is scaled in place, then copied.

    Saves x, which no gradient needs. Backward scales the gradient, one tensor, and unpacks the weight anew. Source:
    aqlm 1.1.7, inference.py, _QuantizedMatmul; inference_kernels/cuda_kernel.cpp, code1x16_matmat_dequant.

    8 tokens: 1082368 B packed, 262144 unpacked, a result twice; in backward 262144 and two gradients:
    >>> from oomph.tape.testing import aqlm_weight, cost
    >>> cost(lambda x: matmul_aqlm(x, aqlm_weight(x.tape)), (2, 4, 256))
    Cost(allocated=1360896, saved=1086464, backward=274432)
    """
    few = yes(rows(x) <= FEW_TOKENS)
    node = record("_QuantizedMatmul", (x,), _backward)
    if node is not None and few:
        raise UsageError(f"AQLM trains on more than {FEW_TOKENS} tokens at a time.", "Give a longer --seq.")
    save(node, x, weight.codes, weight.codebooks, weight.scales)
    if node is not None:
        node.context = weight
    dense = None if few else _dense(weight)
    flat_output = new(x.tape, (rows(x), weight.shape[0]), x.dtype, op="mm")
    out = new(x.tape, (*x.shape[:-1], weight.shape[0]), x.dtype, op="clone")
    del flat_output, dense
    return made_by(out, node)


def _dense(weight: AqlmWeight) -> Sym:
    return new(weight.codes.tape, weight.shape, weight.codebooks.dtype, op="code1x16_dequant")


def _backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    scaled_input = new(gradient.tape, gradient.shape, gradient.dtype, op="mul")
    dense = _dense(node.context)
    own = new(gradient.tape, node.inputs[0][0], gradient.dtype, op="mm")
    del dense, scaled_input
    saved.clear()  # what a Python function is called with is gone before its results are looked at
    gradients.clear()
    return [own]
