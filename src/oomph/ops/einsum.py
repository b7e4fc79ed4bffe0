"""Products summed over shared axes, as torch.einsum makes them of two tensors: permuted, one batched product, back."""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import mul
from oomph.ops.indexing import permute, unsqueeze, view
from oomph.ops.matmul import autocast_argument, bmm
from oomph.tape.sizes import product, yes
from oomph.tape.sym import Sym


def einsum(equation: str, a: Sym, b: Sym) -> Sym:
    """Return torch.einsum(equation, a, b), letters only: "bchn,bshn->bcsh". Autocast casts what goes in.

    Saves both factors as the product takes them: [axes of both, own axes, summed axes], copies where strides forbid a
    view, in practice for most; the gradient is copied into that order too. The result is a view in another order of
    axes. An axis of one place counts as missing, and where nothing is left to sum it is an elementwise product. Source:
    torch 2.13, ATen/native/Linear.cpp, einsum and sumproduct_pair; ATen/autocast_mode.h.

    Queries and keys [B, L, H, D]: copies of both, the scores, and three such tensors backward.
    >>> from oomph.tape.testing import cost
    >>> cost(lambda a, b: einsum("blhn,bshn->blsh", a, b), (2, 64, 4, 16), (2, 64, 4, 16))
    Cost(allocated=98304, saved=32768, backward=98304)
    """
    a, b = autocast_argument(a), autocast_argument(b)
    inputs, output = equation.split("->")
    left_labels, right_labels = inputs.split(",")
    summed = "".join(sorted({*left_labels, *right_labels} - {*output}))
    labels = output + summed
    left, right = _aligned(a, left_labels, labels), _aligned(b, right_labels, labels)
    contracted = [at for at in range(len(output), len(labels)) if _grows(left, at) and _grows(right, at)]
    result = sumproduct_pair(left, right, contracted) if contracted else mul(left, right)
    return view(result, result.shape[: len(output)])


def _aligned(x: Sym, own: str, labels: str) -> Sym:
    """Return x [own axes] with an axis for every label, in their order; one it has not has one place."""
    order = [own.find(label) for label in labels]
    axis = len(own)
    for at, found in enumerate(order):
        if found < 0:
            x = unsqueeze(x, axis)
            order[at] = axis
            axis += 1
    return permute(x, order)


def _grows(x: Sym, axis: int) -> bool:
    return not yes(x.shape[axis] == 1)


def sumproduct_pair(left: Sym, right: Sym, summed: Sequence[int]) -> Sym:
    """Return (left · right).sum(summed, keepdim=True) of two tensors with the same axes, as one batched product.

    Saves what einsum saves. Source: ATen/native/Linear.cpp, sumproduct_pair.

    >>> from oomph.tape.testing import cost
    >>> cost(lambda a, b: sumproduct_pair(a, b, [3]), (2, 64, 1, 16), (2, 1, 32, 16)).allocated
    8192
    """
    axes = [at for at in range(len(left.shape)) if at not in summed]
    both = [at for at in axes if _grows(left, at) and _grows(right, at)]
    rows = [at for at in axes if at not in both and _grows(left, at)]
    columns = [at for at in axes if at not in both and at not in rows]
    if rows and columns and columns[-1] < rows[0]:  # so that the product lies in the order of the axes
        left, right, rows, columns = right, left, columns, rows
    shape = [*(left.shape[at] for at in (*both, *rows)), *(1 for _ in summed), *(right.shape[at] for at in columns)]
    places = [*both, *rows, *summed, *columns]
    left, right = permute(left, places), permute(right, [*both, *summed, *columns, *rows])
    inner = product(right.shape[len(both) : len(both) + len(summed)])
    left = view(left, (product(left.shape[: len(both)]), product(left.shape[len(both) : len(both) + len(rows)]), inner))
    right = view(right, (left.shape[0], inner, product(right.shape[len(both) + len(summed) :])))
    result = bmm(left, right)
    del right, left  # C++ locals die in reverse order
    return permute(view(result, shape), [places.index(at) for at in range(len(places))])
