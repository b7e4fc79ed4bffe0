"""Lion as lion-pytorch has it: one state per parameter, in its dtype. bitsandbytes has another one (lion_32bit).

Source: lion-pytorch 0.2.5, lion_pytorch.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new

STATES = "within"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg in the parameter's shape, dtype and layout.

    Source: lion_pytorch/lion_pytorch.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("lion"), one), (4, 256)).allocated
    2048
    """
    return [new(parameter.tape, parameter.shape, parameter.dtype, parameter.strides, op="exp_avg")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update of one parameter after another: a copy of its state, whose sign is the update.

    It is gone before the next one is made. Source: lion_pytorch/lion_pytorch.py, update_fn.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("lion"), [one], [[one]])
    ...     one.grad = None
    >>> cost(update, frozen(4, 256)).allocated
    4096
    """
    for p, kept in zip(parameters, states, strict=True):
        if p.grad is None:
            continue
        if not kept:
            kept += state(settings, p)
        _update(p)


def _update(p: Sym) -> None:
    update = result("add", p.shape, p.dtype, result("clone", p.shape, p.dtype, p))
    del update
