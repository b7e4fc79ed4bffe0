"""Products of every expert with its own rows in one call: torch's grouped_mm.

Shape letters: M rows, sorted by expert; E experts; K and N the sizes of one expert's matrix.
"""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import cast, grad
from oomph.ops.indexing import swapped
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size, ceil_to, product, yes
from oomph.tape.sym import WIDTH, Storage, Sym, row_major

ROW_BYTES = 16  # rows of a result begin at a multiple


def grouped_mm(x: Sym, weight: Sym, offsets: Sym) -> Sym:
    """Return x [M, K] times weight [E, K, N], each row with its expert's matrix: a new [M, N].

    x is cast to the weight's dtype; autocast knows nothing of it. `offsets`, int32 [E], says where each expert's rows
    end.

    Rows of a result begin at multiples of 16 B. Saves the weight for x's gradient, offsets, and x for the weight's,
    which has the weight's own layout. How many rows each expert gets changes no byte. Source: transformers 5.23,
    integrations/moe.py, _grouped_mm; ATen/native/GroupedMMUtils.h, create_grouped_gemm_output_tensor;
    torch/csrc/autograd/FunctionsManual.cpp, _grouped_mm_mat1_backward.

    Saved: the weight 8·64·32·2 B, x 100·64·2 B, offsets 8·4 B.
    >>> from oomph.tape.testing import Given, cost
    >>> offsets = Given((8,), "int32", trains=False)
    >>> cost(grouped_mm, (100, 64), (8, 64, 32), offsets)
    Cost(allocated=6400, saved=45600, backward=45568)
    """
    x = cast(x, weight.dtype)
    node = record("GroupedMm", (x, weight), _grouped_backward)
    if node is not None:
        node.context = yes(weight.strides[-2] == 1) and not yes(weight.strides[-1] == 1)
        save(node, weight if x.requires_grad else None, offsets, x if weight.requires_grad else None)
    return made_by(_aligned(x, (x.shape[0], weight.shape[2])), node)


def _grouped_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    (rows, inner), (experts, _, outer) = node.inputs[0][0], node.inputs[1][0]
    weight = None
    if node.needs(1):
        turned = node.context
        weight = _aligned(gradient, (experts, outer, inner) if turned else (experts, inner, outer))
        if turned:
            weight = swapped(weight, 1, 2)
    own = _aligned(gradient, (rows, inner)) if node.needs(0) else None
    return [own, weight]


def _aligned(like: Sym, shape: tuple[Size, ...]) -> Sym:
    """Return a new tensor whose rows begin at multiples of 16 B."""
    width = ceil_to(shape[-1], ROW_BYTES // WIDTH[like.dtype])
    n_bytes = ((product(shape[:-1]) - 1) * width + shape[-1]) * WIDTH[like.dtype]  # the last row is not padded
    storage = Storage(like.tape, n_bytes, "grouped_mm", shape, like.dtype)
    return Sym(shape, like.dtype, row_major((*shape[:-1], width)), storage)
