"""Look-ups in a table of vectors."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sym import Sym, new


def embedding(weight: Sym, ids: Sym) -> Sym:
    """Return weight [V, H] at ids [B, S]: a new [B, S, H].

    Saves the ids, for a backward that adds each vector's gradient to its row; the gradient is dense, as large as the
    table. Source: ATen/native/Embedding.cpp, embedding_dense_backward.

    >>> from oomph.tape.testing import cost, ids
    >>> cost(embedding, (1000, 64), ids(2, 8))
    Cost(allocated=2048, saved=128, backward=128000)
    """
    node = record("Embedding", (weight,), _embedding_backward)
    save(node, ids)
    return made_by(new(weight.tape, (*ids.shape, *weight.shape[1:]), weight.dtype, op="embedding"), node)


def _embedding_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient = grad(gradients)
    return [new(gradient.tape, node.inputs[0][0], gradient.dtype, op="embedding_dense_backward")]
