"""Adafactor as torch.optim has it, in the dtype of the weights: second moments of a matrix as one row and one column.

It goes through the parameters one after another unless told otherwise; foreach makes the updates of all matrices at
once. Source: torch 2.13, torch/optim/_adafactor.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings, by_dtype
from oomph.tape.sym import Sym, new

STATES = "before"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return row_var and col_var, of which the last axis or the one before it has length 1, in the parameter's dtype;
    of a vector variance. The step counter is in host memory.

    Source: torch/optim/_adafactor.py, _init_group.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> [cost(lambda one: state(named("adafactor-torch"), one), shape).allocated for shape in ((4, 256), (256,))]
    [520, 512]
    """
    tape, shape, dtype = parameter.tape, parameter.shape, parameter.dtype
    if len(shape) < 2:
        return [new(tape, shape, dtype, op="variance")]
    row_var = new(tape, (*shape[:-1], 1), dtype, op="row_var")
    return [row_var, new(tape, (*shape[:-2], 1, shape[-1]), dtype, op="col_var")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update. Of a matrix: norms of rows, of columns, and the update; of a vector its square and the update.

    loop keeps one update while the next parameter's is made; foreach makes those of all matrices of a dtype, then those
    of its vectors, and each lot dies when the next is there: one more copy of the parameters. Source:
    torch/optim/_adafactor.py, _single_tensor_adafactor, _multi_tensor_adafactor.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     step(named("adafactor-torch", "loop"), [one], [state(named("adafactor-torch"), one)])
    >>> cost(update, frozen(4, 256)).allocated - 520  # two norms, rows, columns, the update, its mean
    2574
    """
    if settings.implementation == "loop":
        _loop(parameters, states)
    else:
        _foreach(parameters, {p.storage.ordinal: kept for p, kept in zip(parameters, states, strict=True)})


def _norm(tensor: Sym) -> Sym:
    return new(tensor.tape, (), tensor.dtype, op="linalg_vector_norm")


def _loop(parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    row_mean = col_mean = var_estimate = grad_squared = update = None
    for p, kept in zip(parameters, states, strict=True):
        _norm(p)
        if len(p.shape) > 1:
            row_var, col_var = kept
            row_mean = result("linalg_vector_norm", row_var.shape, p.dtype, row_var)
            col_mean = result("linalg_vector_norm", col_var.shape, p.dtype, col_var)
            var_estimate = new(p.tape, p.shape, p.dtype, op="mm")
            _mean(row_var)
        else:
            grad_squared = result("mul", p.shape, p.dtype, p)
            var_estimate = result("clone", p.shape, p.dtype, p)
        update = var_estimate
        _norm(update)
    del row_mean, col_mean, var_estimate, grad_squared, update


def _mean(row_var: Sym) -> Sym:
    return new(row_var.tape, (*row_var.shape[:-2], 1, 1), row_var.dtype, op="mean")


def _foreach(parameters: Sequence[Sym], states: dict[int, Sequence[Sym]]) -> None:
    updates: list[Sym] = []
    for of_dtype in by_dtype(parameters):
        for is_multidim in dict.fromkeys(len(p.shape) > 1 for p in of_dtype):
            group = [p for p in of_dtype if (len(p.shape) > 1) == is_multidim]
            kept = [states[p.storage.ordinal] for p in group]
            _norms(group)
            updates = _of_matrices(group, kept) if is_multidim else _of_vectors(group)
            _norms(updates)
    del updates


def _norms(tensors: Sequence[Sym]) -> None:
    recorder = tensors[0].tape.recorder
    if len(tensors) > 1:  # what is done to one after another is an instant of its own, so that depth can be left open
        recorder.mark("norms for the optimizer")
    for one in tensors:
        _norm(one)
    if len(tensors) > 1:
        recorder.mark("optimizer step")


def _of_matrices(parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> list[Sym]:
    for at in range(2):
        means = [result("linalg_vector_norm", each[at].shape, each[at].dtype, each[at]) for each in states]
        del means
    var_estimates = [new(p.tape, p.shape, p.dtype, op="mm") for p in parameters]
    row_var_means = [_mean(row_var) for row_var, _ in states]
    del row_var_means
    return var_estimates


def _of_vectors(parameters: Sequence[Sym]) -> list[Sym]:
    grads_squared = [result("_foreach_mul", p.shape, p.dtype, p) for p in parameters]
    del grads_squared
    return [result("clone", p.shape, p.dtype, p) for p in parameters]
