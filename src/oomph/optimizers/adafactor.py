"""Adafactor as transformers has it and its Trainer sets it up: second moments of a matrix as one row and one column.

Everything is computed in fp32, one parameter after another: copies of the parameter and its gradient where they are
half precision, and the update, of which two stand beside each other. These temporaries of the largest parameter are
often more than all states. Without first moment, relative steps and scaling by the parameter, as the Trainer asks.
Source: transformers 5.23, optimization.py, Adafactor.step; trainer_optimizer.py, _get_adafactor.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import cast, result
from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new

STATES = "within"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg_sq_row (all but the last axis) and exp_avg_sq_col (all but the one before it) in fp32; of a
    vector exp_avg_sq. And RMS, an fp32 scalar, which every step makes anew.

    Source: transformers/optimization.py, Adafactor.step, state initialization.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> [cost(lambda one: state(named("adafactor"), one), shape).allocated for shape in ((4, 256), (256,))]
    [1044, 1028]
    """
    return [*_moments(parameter), new(parameter.tape, (), "fp32", op="RMS")]


def _moments(parameter: Sym) -> list[Sym]:
    tape, shape = parameter.tape, parameter.shape
    if len(shape) < 2:
        return [new(tape, shape, "fp32", op="exp_avg_sq")]
    row = new(tape, shape[:-1], "fp32", op="exp_avg_sq_row")
    return [row, new(tape, (*shape[:-2], shape[-1]), "fp32", op="exp_avg_sq_col")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update of one parameter after another: fp32 copies, the squared gradient, the update of row and column.

    Local variables live until the next parameter's take their place, as those of the real loop do. Source:
    transformers/optimization.py, Adafactor.step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("adafactor"), [one], [state(named("adafactor"), one)])
    ...     one.grad = None
    >>> cost(update, frozen(4, 256)).allocated - 1044
    26680
    """
    for p, kept in zip(parameters, states, strict=True):
        if p.grad is None:
            continue
        grad = p.grad  # the copy of the one before is gone before this one's is made
        grad = cast(grad, "fp32")
        if not kept:
            kept += _moments(p)
        p_data_fp32 = p
        p_data_fp32 = cast(p_data_fp32, "fp32")
        rms = _rms(p_data_fp32)
        kept[2 if len(p.shape) > 1 else 1 :] = [rms]
        del rms
        update = result("add", p.shape, "fp32", result("pow", p.shape, "fp32", grad))
        if len(p.shape) > 1:
            new(p.tape, p.shape[:-1], "fp32", op="mean")
            new(p.tape, (*p.shape[:-2], p.shape[-1]), "fp32", op="mean")
            update = approx_sq_grad(kept[0], kept[1])
        else:
            update = result("rsqrt", p.shape, "fp32", kept[0])
        scale = result("div", (), "fp32", _rms(update))
        del scale
        result("neg", p.shape, "fp32", update)
    del grad, p_data_fp32, update


def _rms(tensor: Sym) -> Sym:
    return result("div", (), "fp32", new(tensor.tape, (), "fp32", op="linalg_vector_norm"))


def approx_sq_grad(exp_avg_sq_row: Sym, exp_avg_sq_col: Sym) -> Sym:
    """Return the estimate of all second moments from a row and a column; of each a factor is made on the way.

    Source: transformers/optimization.py, Adafactor._approx_sq_grad.

    >>> from oomph.tape.testing import cost, fp32
    >>> cost(approx_sq_grad, fp32(4), fp32(256)).allocated  # a mean, 4 and 256 factors, 4 x 256
    5140
    """
    row, tape = exp_avg_sq_row, exp_avg_sq_row.tape
    r_factor = result("div", row.shape, "fp32", row, new(tape, (*row.shape[:-1], 1), "fp32", op="mean"))
    c_factor = result("rsqrt", exp_avg_sq_col.shape, "fp32", exp_avg_sq_col)
    made = new(tape, (*row.shape, exp_avg_sq_col.shape[-1]), "fp32", op="mul")
    del r_factor, c_factor
    return made
