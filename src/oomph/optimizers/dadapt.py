"""D-Adaptation's Adam, which finds its own learning rate: Adam's two states, and a weighted sum of gradients.

Source: dadaptation 3.2, dadapt_adam.py, DAdaptAdam.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new

STATES = "within"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return s, exp_avg and exp_avg_sq in the parameter's shape, dtype and layout: three times the parameter.

    Source: dadaptation/dadapt_adam.py, step, state initialization.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("dadapt-adam"), one), (4, 256)).allocated
    6144
    """
    tape, shape, dtype, strides = parameter.tape, parameter.shape, parameter.dtype, parameter.strides
    return [new(tape, shape, dtype, strides, op=op) for op in ("s", "exp_avg", "exp_avg_sq")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update: of one parameter after another a denominator, s over it and the sizes of s, the latter two gone
    when a number is made of them; then all denominators again, each until the next one is there.

    Source: dadaptation/dadapt_adam.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("dadapt-adam"), [one], [[one]])
    ...     one.grad = None
    >>> cost(update, frozen(4, 256)).allocated  # four times 2048, two numbers
    8196
    """
    there = [(p, kept) for p, kept in zip(parameters, states, strict=True) if p.grad is not None]
    denom = None
    for p, kept in there:
        if not kept:
            kept += state(settings, p)
        denom = result("sqrt", p.shape, p.dtype, p)
        for op, number in (("div", "dot"), ("abs", "sum")):
            one = result(op, p.shape, p.dtype, p)
            made = new(p.tape, (), p.dtype, op=number)
            del one, made
    if len(there) > 1:
        there[0][0].tape.recorder.mark("D-Adaptation update")
    for p, _ in there:
        denom = result("sqrt", p.shape, p.dtype, p)
    del denom
