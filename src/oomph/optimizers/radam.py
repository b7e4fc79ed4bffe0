"""RAdam as torch.optim has it: Adam's two states per parameter.

Its first five steps have no denominators: they are not rectified. Source: torch 2.13, torch/optim/radam.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers import adamw
from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym

STATES = "before"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg and exp_avg_sq in the parameter's shape, dtype and layout; the step counter is in host memory.

    Source: torch/optim/radam.py, _init_group.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("radam"), one), (4, 256)).allocated
    4096
    """
    return adamw.state(settings, parameter)


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update: foreach makes the roots of all second moments, as AdamW's does; loop makes of one parameter the
    corrected first moment, which lies there until the next one's is made, and that times the rate.

    From the sixth step on, loop also makes a root, its reciprocal, the scaled one and two products. A later step is
    taken to be one of those. Source: torch/optim/radam.py, _multi_tensor_radam, _single_tensor_radam.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one, how, steady):
    ...     return step(replace(named("radam", how), steady=steady), [one], [[one, one]])
    >>> from dataclasses import replace
    >>> [cost(lambda one: update(one, "loop", steady), frozen(4, 256)).allocated for steady in (False, True)]
    [4096, 14336]
    """
    if settings.implementation == "foreach":
        adamw.step(settings, parameters, states)
        return
    for exp_avg, exp_avg_sq in states:
        bias_corrected_exp_avg = result("div", exp_avg.shape, exp_avg.dtype, exp_avg)
        update = result("mul", exp_avg.shape, exp_avg.dtype, bias_corrected_exp_avg)
        if settings.steady:
            adaptive_lr = _adaptive_lr(exp_avg_sq)
            update = result("mul", update.shape, update.dtype, update, adaptive_lr)
            del adaptive_lr
            update = result("mul", update.shape, update.dtype, update)
        del update
    del bias_corrected_exp_avg


def _adaptive_lr(exp_avg_sq: Sym) -> Sym:
    root = result("sqrt", exp_avg_sq.shape, exp_avg_sq.dtype, exp_avg_sq)
    reciprocal = result("reciprocal", root.shape, root.dtype, root)
    scaled = result("mul", root.shape, root.dtype, reciprocal)
    del reciprocal, root
    return scaled
