"""LOMO and AdaLomo: every parameter is updated within the backward pass, when the next gradient comes.

A hook on each gradient updates what has one already, so that two gradients are there at most; the last parameter is
updated after the pass. Both compute in fp32. AdaLomo keeps second moments as Adafactor does, a row and a column of a
matrix, and scales the loss. Source: lomo-optim 0.1.1, lomo.py, adalomo.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oomph.errors import UnsupportedError
from oomph.ops.elementwise import cast, result
from oomph.optimizers.adafactor import approx_sq_grad
from oomph.optimizers.settings import Settings
from oomph.tape.autograd import backward
from oomph.tape.sym import Sym, new

STATES = "made"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return nothing of LOMO; of AdaLomo exp_avg_sq_row and exp_avg_sq_col of a matrix, exp_avg_sq of a vector, in
    fp32.

    Raises UnsupportedError for a parameter of more axes. Source: lomo_optim/adalomo.py, AdaLomo.__init__.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> [cost(lambda one: state(named(name), one), (4, 256)).allocated for name in ("lomo", "adalomo")]
    [0, 1040]
    """
    if settings.name != "adalomo":
        return []
    if len(parameter.shape) == 1:
        return [new(parameter.tape, parameter.shape, "fp32", op="exp_avg_sq")]
    if len(parameter.shape) > 2:
        raise UnsupportedError("AdaLomo fails on weights of three axes, such as stacked experts.", "Take lomo.")
    names = ("exp_avg_sq_row", "exp_avg_sq_col")
    return [new(parameter.tape, (size,), "fp32", op=op) for size, op in zip(parameter.shape, names, strict=True)]


def fused_backward(settings: Settings, loss: Sym, update: Callable[[], None]) -> None:
    """Play the backward pass and the update that is left after it; AdaLomo's of the loss times 1024, a scalar.

    Source: lomo_optim/lomo.py, adalomo.py, fused_backward.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: fused_backward(named("lomo"), one, lambda: None), (4, 256))
    Cost(allocated=2, saved=0, backward=0)
    """
    if settings.name == "adalomo":
        loss = loss * 1.0
    backward(loss)
    update()


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play the updates of parameters that have a gradient, which is free as soon as it is cast to fp32.

    Of 16-bit weights LOMO makes fp32 copies of gradient and parameter; AdaLomo between the two the square, its row and
    column, and the update. Source: lomo_optim/lomo.py, adalomo.py, fuse_update.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one, name):
    ...     one.grad = one.detach()
    ...     step(named(name), [one], [state(named(name), one)])
    >>> [cost(lambda one: update(one, name), frozen(4, 256)).allocated for name in ("lomo", "adalomo")]
    [8192, 23633]
    """
    grad_fp32 = new_moment = p_fp32 = None
    scalars: list[Sym] = []
    for p, kept in zip(parameters, states, strict=True):
        if p.grad is None:
            continue
        grad_fp32 = cast(p.grad, "fp32")
        p.grad = None
        if settings.name == "adalomo":
            new_moment = _update(p, kept, grad_fp32)
        p_fp32 = p
        p_fp32 = cast(p_fp32, "fp32")
        if settings.name == "adalomo":
            scalars = _scaled(p_fp32)
    del grad_fp32, new_moment, p_fp32
    while scalars:
        scalars.pop(0)


def _update(p: Sym, kept: Sequence[Sym], grad_fp32: Sym) -> Sym:
    update = result("add", p.shape, "fp32", result("pow", p.shape, "fp32", grad_fp32))
    if len(p.shape) > 1:
        new(p.tape, p.shape[:-1], "fp32", op="mean")
        new(p.tape, (*p.shape[:-2], p.shape[-1]), "fp32", op="mean")
        update = approx_sq_grad(kept[0], kept[1])
    else:
        update = result("rsqrt", p.shape, "fp32", kept[0])
    ratio = result("div", (), "fp32", _rms(update))
    del ratio
    return update


def _rms(tensor: Sym) -> Sym:
    return result("div", (), "fp32", new(tensor.tape, (), "fp32", op="linalg_vector_norm"))


def _scaled(p_fp32: Sym) -> list[Sym]:
    """Return the rate times the norm of a parameter, and that."""
    p_rms = _rms(p_fp32)
    new(p_fp32.tape, (), "bool", op="gt")
    rate = result("mul", (), "fp32", p_rms)
    result("neg", (), "fp32", rate)
    return [rate, p_rms]
