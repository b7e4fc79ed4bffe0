"""Clipping gradients by their norm: a scalar per gradient, a few of all. Source: torch/nn/utils/clip_grad.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from oomph.ops.elementwise import wider
from oomph.ops.kernel import run
from oomph.optimizers.settings import by_dtype
from oomph.tape.sizes import Size, product, yes
from oomph.tape.sym import Sym, new
from oomph.workspaces import foreach_norm


def clip_grad_norm(parameters: Sequence[Sym], count: Callable[[list[Sym]], Size]) -> None:
    """Play clip_grad_norm_(parameters, foreach=True); `count` says how many such there are in the whole model.

    A scalar per gradient in its dtype, dtype after dtype, all of them stacked once more in the widest, then five
    scalars (norm, shifted, inverse, coefficient, clamped); gradients are scaled in place. While the norms of a dtype
    are made, the kernel holds an fp32 number for every 65536 elements of its largest gradient, and as many for every
    other one. Source: torch/nn/utils/clip_grad.py,
    ATen/native/cuda/ForeachReduceOp.cu.

    >>> from oomph.tape.testing import cost, frozen
    >>> def clip(one):
    ...     one.grad = one
    ...     clip_grad_norm([one], len)
    ...     one.grad = None
    >>> cost(clip, frozen(4, 256))
    Cost(allocated=18, saved=0, backward=0)
    """
    trained = [one for one in parameters if one.grad is not None]
    tape = trained[0].tape
    norms = [norm for group in by_dtype(trained) for norm in _norms(group, count(group))]
    dtype = reduce(wider, [one.dtype for one in norms])
    stacked = new(tape, (count(trained),), dtype, op="stack")
    total_norm = new(tape, (), dtype, op="linalg_vector_norm")
    del stacked, norms
    shifted = new(tape, (), dtype, op="add")
    inverse = new(tape, (), dtype, op="reciprocal")
    clip_coef = new(tape, (), dtype, op="mul")
    del inverse, shifted
    clip_coef_clamped = new(tape, (), dtype, op="clamp")
    del clip_coef, clip_coef_clamped, total_norm


def _norms(group: Sequence[Sym], count: Size) -> list[Sym]:
    tape, dtype = group[0].tape, group[0].dtype
    steps = foreach_norm(count, _largest([product(one.shape) for one in group]))
    return run(tape, steps, lambda: [new(tape, (), dtype, op="_foreach_norm") for _ in group])


def _largest(sizes: Sequence[Size]) -> Size:
    most: Size = 0
    for size in sizes:
        most = size if yes(most < size) else most
    return most
