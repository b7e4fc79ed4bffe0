"""CAME: Adafactor's row and column of second moments, a first moment, and another row and column of how far the update
is from it. All of it is fp32.

Source: came-pytorch 0.1.3, CAME.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import cast, result
from oomph.optimizers.adafactor import approx_sq_grad
from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new

STATES = "within"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg, of a matrix a row and a column of second moments and two of residuals, of a vector exp_avg_sq,
    all in fp32; and RMS, a scalar in the parameter's dtype, which every step makes anew.

    Source: came_pytorch/CAME.py, step, state initialization.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> [cost(lambda one: state(named("came"), one), shape).allocated for shape in ((4, 256), (256,))]
    [6178, 2050]
    """
    return [*_moments(parameter), new(parameter.tape, (), parameter.dtype, op="RMS")]


def _moments(parameter: Sym) -> list[Sym]:
    tape, shape = parameter.tape, parameter.shape
    exp_avg = new(tape, shape, "fp32", parameter.strides, op="exp_avg")
    if len(shape) < 2:
        return [exp_avg, new(tape, shape, "fp32", op="exp_avg_sq")]
    made = [exp_avg]
    for of in ("exp_avg_sq", "exp_avg_res"):
        made.append(new(tape, shape[:-1], "fp32", op=f"{of}_row"))
        made.append(new(tape, (*shape[:-2], shape[-1]), "fp32", op=f"{of}_col"))
    return made


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update of one parameter after another: the gradient in fp32, the update, how far it is from the first
    moment, and the update again; local variables live until the next parameter's take their place.

    Source: came_pytorch/CAME.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("came"), [one], [state(named("came"), one)])
    ...     one.grad = None
    >>> cost(update, frozen(4, 256)).allocated - 6178  # nine times 4096, rows, columns, scalars
    41048
    """
    grad = update = res = res_approx = None
    for p, kept in zip(parameters, states, strict=True):
        if p.grad is None:
            continue
        grad = p.grad
        grad = cast(grad, "fp32")
        if not kept:
            kept += _moments(p)
        matrix = len(p.shape) > 1
        kept[5 if matrix else 2 :] = [_rms(p)]
        update = result("add", p.shape, "fp32", result("pow", p.shape, "fp32", grad))
        if matrix:
            _means(p)
            update = approx_sq_grad(kept[1], kept[2])
        else:
            update = result("rsqrt", p.shape, "fp32", kept[1])
        ratio = result("div", (), "fp32", _rms(update))
        del ratio
        # The difference is gone when its square is there.
        res = result("add", p.shape, "fp32", result("pow", p.shape, "fp32", result("sub", p.shape, "fp32", update)))
        if matrix:
            _means(p)
            res_approx = approx_sq_grad(kept[3], kept[4])
            update = res_approx
        else:
            update = result("clone", p.shape, "fp32", kept[0])
        result("neg", p.shape, "fp32", update)
    del grad, update, res, res_approx


def _means(p: Sym) -> None:
    """Make the mean of each row, then of each column, one after the other."""
    new(p.tape, p.shape[:-1], "fp32", op="mean")
    new(p.tape, (*p.shape[:-2], p.shape[-1]), "fp32", op="mean")


def _rms(tensor: Sym) -> Sym:
    return result("div", (), tensor.dtype, new(tensor.tape, (), tensor.dtype, op="linalg_vector_norm"))
