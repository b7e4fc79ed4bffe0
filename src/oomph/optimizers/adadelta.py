"""Adadelta as torch.optim has it: two states per parameter, and two temporaries. Source: torch 2.13,
torch/optim/adadelta.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings, by_dtype
from oomph.tape.sym import Sym, new

STATES = "before"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return square_avg and acc_delta in the parameter's shape, dtype and layout; the step counter is in host memory.

    Source: torch/optim/adadelta.py, _init_group.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("adadelta"), one), (4, 256)).allocated
    4096
    """
    shape, dtype, strides = parameter.shape, parameter.dtype, parameter.strides
    return [new(parameter.tape, shape, dtype, strides, op=op) for op in ("square_avg", "acc_delta")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update: the roots of both states, of all parameters (foreach: two more copies of them) or of one after
    another (loop).

    Source: torch/optim/adadelta.py, _multi_tensor_adadelta, _single_tensor_adadelta.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: step(named("adadelta"), [one], [[one, one]]), frozen(4, 256)).allocated
    4096
    """
    if settings.implementation == "foreach":
        square_avgs, acc_deltas = (by_dtype([each[at] for each in states]) for at in range(2))
        for squares, accumulated in zip(square_avgs, acc_deltas, strict=True):
            std = [result("_foreach_add", one.shape, one.dtype, one) for one in squares]
            deltas = [result("_foreach_add", one.shape, one.dtype, one) for one in accumulated]
        del std, deltas
        return
    for square_avg, acc_delta in states:
        std_of_one = result("add", square_avg.shape, square_avg.dtype, square_avg)
        delta = result("add", acc_delta.shape, acc_delta.dtype, acc_delta)
    del std_of_one, delta
