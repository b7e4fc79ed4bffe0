"""Optimizers without a schedule: the weights that gradients are taken at, and beside them, as a state, those of a plain
step. Source: schedulefree 1.4.1, adamw_schedulefree.py, radam_schedulefree.py, sgd_schedulefree.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new

STATES = "before"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return z, a clone of the parameter, and but for SGD exp_avg_sq: the parameter's shape, dtype and layout.

    Source: schedulefree/adamw_schedulefree.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> names = ("schedule_free_adamw", "schedule_free_sgd")
    >>> [cost(lambda one: state(named(name), one), (4, 256)).allocated for name in names]
    [4096, 2048]
    """
    names = ["z", *([] if settings.name == "sgd" else ["exp_avg_sq"])]
    return [new(parameter.tape, parameter.shape, parameter.dtype, parameter.strides, op=op) for op in names]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update: denominators of all parameters (foreach) or of one after another (loop), by which gradients are
    divided in place; SGD makes none, nor does RAdam in its first steps.

    Source: schedulefree/adamw_schedulefree.py, radam_schedulefree.py, sgd_schedulefree.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> names = ("schedule_free_adamw", "schedule_free_sgd")
    >>> [cost(lambda one: step(named(name), [one], [[one, one]]), frozen(4, 256)).allocated for name in names]
    [2048, 0]
    """
    if settings.name == "sgd" or (settings.name == "radam" and not settings.steady):
        return
    if settings.implementation == "foreach":
        denominators = [result("_foreach_div", one.shape, one.dtype, one) for _, one in states]
        del denominators
        return
    for _, exp_avg_sq in states:
        denom = result("div", exp_avg_sq.shape, exp_avg_sq.dtype, exp_avg_sq)
    del denom
