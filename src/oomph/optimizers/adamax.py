"""Adamax as torch.optim has it: two states per parameter, and the absolute values of gradients. Source: torch 2.13,
torch/optim/adamax.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings, by_dtype
from oomph.tape.sym import Sym, new

STATES = "before"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg and exp_inf in the parameter's shape, dtype and layout; the step counter is in host memory.

    Source: torch/optim/adamax.py, _init_group.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("adamax"), one), (4, 256)).allocated
    4096
    """
    shape, dtype, strides = parameter.shape, parameter.dtype, parameter.strides
    return [new(parameter.tape, shape, dtype, strides, op=op) for op in ("exp_avg", "exp_inf")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update: the absolute gradients, of all parameters of a dtype (foreach) or of one after another (loop);
    each lot is gone before the next is made.

    Source: torch/optim/adamax.py, _multi_tensor_adamax, _single_tensor_adamax.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("adamax"), [one], [[one, one]])
    ...     one.grad = None
    >>> cost(update, frozen(4, 256)).allocated
    2048
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    groups = by_dtype(gradients) if settings.implementation == "foreach" else [[one] for one in gradients]
    for group in groups:
        absolute = [result("abs", one.shape, one.dtype, one) for one in group]
        del absolute
