"""RMSprop as torch.optim has it: one state per parameter, and the roots of all of them (foreach) or of one (loop).

Without momentum and centering, which are off by default. Source: torch 2.13, torch/optim/rmsprop.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings, by_dtype
from oomph.tape.sym import Sym, new

STATES = "before"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return square_avg in the parameter's shape, dtype and layout; the step counter is in host memory.

    Source: torch/optim/rmsprop.py, _init_group.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("rmsprop"), one), (4, 256)).allocated
    2048
    """
    return [new(parameter.tape, parameter.shape, parameter.dtype, parameter.strides, op="square_avg")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update: the denominators, all at once (foreach) or one after another (loop), each a tensor like its
    state; the next one is made while the one before is still there.

    Source: torch/optim/rmsprop.py, _multi_tensor_rmsprop, _single_tensor_rmsprop.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: step(named("rmsprop"), [one], [[one]]), frozen(4, 256)).allocated
    2048
    """
    if settings.implementation == "foreach":
        for square_avgs in by_dtype([one for (one,) in states]):
            avg = [result("_foreach_sqrt", one.shape, one.dtype, one) for one in square_avgs]
        del avg
        return
    for (one,) in states:
        root = result("sqrt", one.shape, one.dtype, one)
    del root
