"""SophiaG: Lion's way of updating, each element by at most what an estimate of its curvature allows.

The estimate is renewed every tenth step from gradients of a loss on labels that the model itself draws: another forward
and backward pass after the step, which adds to the state in place; it is not played. pytorch_optimizer's SophiaH, which
differentiates twice, is another optimizer. Source: sophia.py of Liuhong99/Sophia, SophiaG, _single_tensor_sophiag.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new

STATES = "before"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg and hessian in the parameter's shape, dtype and layout; the step counter is in host memory.

    Source: sophia.py, SophiaG.step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("sophia-g"), one), (4, 256)).allocated
    4096
    """
    return [
        new(parameter.tape, parameter.shape, parameter.dtype, parameter.strides, op=op) for op in ("exp_avg", "hessian")
    ]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update of one parameter after another: of its moment a copy and of its curvature two, their ratio and
    what of it is bounded, which stays until the next parameter's is there; then a sign.

    Source: sophia.py, _single_tensor_sophiag.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("sophia-g"), [one], [[one, one]])
    ...     one.grad = None
    >>> cost(update, frozen(4, 256)).allocated  # six times 2048
    12288
    """
    ratio = None
    for p, _ in zip(parameters, states, strict=True):
        if p.grad is not None:
            ratio = _ratio(p)
            result("sign", p.shape, p.dtype, p)
    del ratio


def _ratio(p: Sym) -> Sym:
    moment = result("abs", p.shape, p.dtype, p)
    curvature = result("add", p.shape, p.dtype, result("mul", p.shape, p.dtype, p))
    quotient = result("div", p.shape, p.dtype, moment, curvature)
    del moment, curvature
    return result("clamp", p.shape, p.dtype, quotient)
