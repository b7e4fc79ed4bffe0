"""Adafactor as transformers has it and its Trainer sets it up: second moments of a matrix as one row and one column.

Everything is computed in fp32, one parameter after another: copies of the parameter and its gradient where they are
half precision, and the update, of which two stand beside each other. These temporaries of the largest parameter are
often more than all states. Without first moment, relative steps and scaling by the parameter, as the Trainer asks.
GaLore's works on projected gradients. Source: transformers 5.23, optimization.py, Adafactor.step; trainer_optimizer.py,
_get_adafactor; galore-torch 1.0, adafactor.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import cast, result
from oomph.optimizers.projection import (
    full_rank,
    in_turn,
    low_rank,
    of_projection,
    project,
    project_back,
    rank_of,
    singular_vectors,
)
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new

STATES, TARGETS = "within", "last"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg_sq_row (all but the last axis) and exp_avg_sq_col (all but the one before it) in fp32; of a
    vector exp_avg_sq. And RMS, an fp32 scalar, which every step makes anew.

    Of a matrix that GaLore projects, first the projection: in fp32, and so a view that keeps the whole matrix of
    singular vectors. Row and column are those of the projected gradient then. Source: transformers/optimization.py,
    Adafactor.step, state initialization; galore_torch/adafactor.py.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> [cost(lambda one: state(named("adafactor"), one), shape).allocated for shape in ((4, 256), (256,))]
    [1044, 1028]
    """
    tape, shape = parameter.tape, parameter.shape
    if not settings.is_target(parameter):
        return [*_moments(parameter, shape), new(tape, (), "fp32", op="RMS")]
    ortho_matrix = new(tape, of_projection(parameter, full_rank(parameter)), "fp32", op="ortho_matrix")
    small = low_rank(parameter, rank_of(settings, parameter))
    return [ortho_matrix, *_moments(parameter, small), new(tape, (), "fp32", op="RMS")]


def _moments(parameter: Sym, shape: Sequence[Size]) -> list[Sym]:
    tape = parameter.tape
    if len(shape) < 2:
        return [new(tape, shape, "fp32", op="exp_avg_sq")]
    row = new(tape, shape[:-1], "fp32", op="exp_avg_sq_row")
    return [row, new(tape, (*shape[:-2], shape[-1]), "fp32", op="exp_avg_sq_col")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update of one parameter after another: fp32 copies, the squared gradient, the update of row and column.

    Local variables live until the next parameter's take their place, as those of the real loop do. Of GaLore, gradient
    and update are small until the update comes back in full size, in fp32, twice. Source: transformers/optimization.py,
    Adafactor.step; galore_torch/adafactor.py.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("adafactor"), [one], [state(named("adafactor"), one)])
    ...     one.grad = None
    >>> cost(update, frozen(4, 256)).allocated - 1044
    26680
    """
    for p, grad, kept in in_turn(settings, parameters, states):
        grad = cast(grad, "fp32")
        projected = settings.is_target(p)
        if projected:
            grad = project(settings, grad, rank_of(settings, p), kept, singular_vectors)
        if len(kept) < 2:
            kept += _moments(p, grad.shape)
        p_data_fp32 = p
        p_data_fp32 = cast(p_data_fp32, "fp32")
        rms = _rms(p_data_fp32)
        kept[projected + (2 if len(p.shape) > 1 else 1) :] = [rms]
        del rms
        update = result("add", grad.shape, "fp32", result("pow", grad.shape, "fp32", grad))
        if len(p.shape) > 1:
            new(p.tape, grad.shape[:-1], "fp32", op="mean")
            new(p.tape, (*grad.shape[:-2], grad.shape[-1]), "fp32", op="mean")
            update = approx_sq_grad(kept[projected], kept[projected + 1])
        else:
            update = result("rsqrt", p.shape, "fp32", kept[0])
        scale = result("div", (), "fp32", _rms(update))
        del scale
        if projected:
            update = project_back(p, update)
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
