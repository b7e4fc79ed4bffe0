"""Adagrad as torch.optim has it: one state per parameter, made with the optimizer, before any step.

Source: torch 2.13, torch/optim/adagrad.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings, by_dtype
from oomph.tape.sym import Sym, new

STATES = "made"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return sum in the parameter's shape, dtype and layout; the step counter is in host memory.

    Source: torch/optim/adagrad.py, Adagrad.__init__.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("adagrad"), one), (4, 256)).allocated
    2048
    """
    return [new(parameter.tape, parameter.shape, parameter.dtype, parameter.strides, op="sum")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update: foreach makes the roots of all states and then as much again, the scaled gradients; loop the
    root of one state after another, the next while the one before is still there.

    Source: torch/optim/adagrad.py, _multi_tensor_adagrad, _single_tensor_adagrad.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one, how):
    ...     one.grad = one
    ...     step(named("adagrad", how), [one], [[one]])
    ...     one.grad = None
    >>> [cost(lambda one: update(one, how), frozen(4, 256)).allocated for how in ("foreach", "loop")]
    [4096, 2048]
    """
    if settings.implementation == "foreach":
        gradients = by_dtype([one.grad for one in parameters if one.grad is not None])
        for sums, grads in zip(by_dtype([one for (one,) in states]), gradients, strict=True):
            std = [result("_foreach_sqrt", one.shape, one.dtype, one) for one in sums]
            numerator = [result("_foreach_mul", one.shape, one.dtype, one) for one in grads]
        del std, numerator
        return
    for (one,) in states:
        std_of_one = result("sqrt", one.shape, one.dtype, one)
    del std_of_one
