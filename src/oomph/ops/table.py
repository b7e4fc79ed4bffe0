"""Look-ups in a table of vectors."""

from __future__ import annotations

from typing import Any

from oomph.ops.elementwise import grad
from oomph.ops.kernel import run
from oomph.tape.autograd import Gradients, Node, made_by, record, save
from oomph.tape.sizes import Size, product
from oomph.tape.sym import Sym, new
from oomph.workspaces import embedding_backward


def embedding(weight: Sym, ids: Sym) -> Sym:
    """Return weight [V, H] at ids [B, S]: a new [B, S, H].

    Saves the ids, for a backward that adds each vector's gradient to its row; the gradient is dense, as large as the
    table. Above 3072 tokens CUDA sorts them and adds up parts in fp32 beside it (workspaces.embedding_backward).
    Source: ATen/native/Embedding.cpp, embedding_dense_backward; ATen/native/cuda/Embedding.cu.

    4096 tokens are 4096 // 10 + 1000 = 1409 parts of 64·4 B, beside 6·4096 + 2·1000 + 1409 + 2 int64:
    >>> from oomph.tape.testing import cost, ids
    >>> cost(embedding, (1000, 64), ids(2, 8)), cost(embedding, (1000, 64), ids(2, 2048)).backward - 128000
    (Cost(allocated=2048, saved=128, backward=128000), 584600)
    """
    node = record("Embedding", (weight,), _embedding_backward)
    save(node, ids)
    return made_by(new(weight.tape, (*ids.shape, *weight.shape[1:]), weight.dtype, op="embedding"), node)


def embedding_at(weight: Sym, shape: tuple[Size, ...]) -> Sym:
    """Return weight [V, H] at ids that lie in a buffer, as BERT's positions do: a new [.., H].

    Saves the ids, which are there anyway. Source: ATen/native/Embedding.cpp, embedding_dense_backward.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda weight: embedding_at(weight, (1, 8)), (1000, 64))
    Cost(allocated=1024, saved=0, backward=128000)
    """
    node = record("Embedding", (weight,), _embedding_backward)
    return made_by(new(weight.tape, (*shape, *weight.shape[1:]), weight.dtype, op="embedding"), node)


def _embedding_backward(node: Node, gradients: Gradients, saved: list[Any]) -> Gradients:
    gradient, table = grad(gradients), node.inputs[0][0]
    tape, dtype = gradient.tape, gradient.dtype
    steps = embedding_backward(product(gradient.shape[:-1]), *table)
    return run(tape, steps, lambda: [new(tape, table, dtype, op="embedding_dense_backward")])
