"""ADOPT and Adan as pytorch_optimizer has them: AdamW's foreach with other states and one temporary more or none.

axolotl's `adopt_adamw` is ADOPT's own code, which allocates the same. Source: pytorch_optimizer 4.1,
optimizer/adopt.py, optimizer/adan.py, _step_foreach.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new

STATES = "before"
KEPT = {"adopt": ("exp_avg", "exp_avg_sq"), "adan": ("exp_avg", "exp_avg_sq", "exp_avg_diff", "previous_grad")}


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg and exp_avg_sq in the parameter's shape, dtype and layout; of Adan also exp_avg_diff and a copy of
    the last gradient.

    Source: pytorch_optimizer/optimizer/adopt.py, adan.py, init_group.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> [cost(lambda one: state(named(name), one), (4, 256)).allocated for name in ("adopt", "adan")]
    [4096, 8192]
    """
    shape, dtype, strides = parameter.shape, parameter.dtype, parameter.strides
    return [new(parameter.tape, shape, dtype, strides, op=op) for op in KEPT[settings.name]]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update: the roots of all parameters of a dtype, and for ADOPT as much again, the gradients divided by
    them. ADOPT's first step only notes the squares.

    Source: pytorch_optimizer/optimizer/adopt.py, adan.py, _step_foreach.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one, name):
    ...     one.grad = one
    ...     step(named(name), [one], [[one] * 4])
    ...     one.grad = None
    >>> [cost(lambda one: update(one, name), frozen(4, 256)).allocated for name in ("adopt", "adan")]
    [4096, 2048]
    """
    if settings.name == "adopt" and not settings.steady:
        return
    there = [one for one in parameters if one.grad is not None]
    for dtype in dict.fromkeys(one.dtype for one in there):
        group = [one for one in there if one.dtype == dtype]
        de_noms = [result("_foreach_sqrt", one.shape, dtype, one) for one in group]
        normed_grads = [result("_foreach_div", one.shape, dtype, one) for one in group if settings.name == "adopt"]
        del de_noms, normed_grads
