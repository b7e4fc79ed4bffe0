"""Prodigy, which finds its own learning rate: AdamW's two states, where each parameter began, and how far it went.

Source: prodigyopt 1.1.2, prodigy.py, Prodigy, with slice_p of 1, as by default.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new

STATES = "within"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return s and p0, flat, and exp_avg and exp_avg_sq in the parameter's shape, all in its dtype: four times the
    parameter. Of one that is all zeros (LoRA's B when it is new) p0 is but a number; here it is a copy.

    Source: prodigyopt/prodigy.py, step, state initialization.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("prodigy"), one), (4, 256)).allocated
    8192
    """
    tape, shape, dtype = parameter.tape, parameter.shape, parameter.dtype
    s = new(tape, shape, dtype, op="s")
    if not settings.steady:  # else they are there already
        new(tape, (), "bool", op="any")
    p0 = new(tape, shape, dtype, op="p0")
    return [s, p0, *(new(tape, shape, dtype, parameter.strides, op=op) for op in ("exp_avg", "exp_avg_sq"))]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update: of one parameter after another the way from where it began and the sizes of s, each gone when a
    number is made of it; then the denominators, each until the next one is there.

    Source: prodigyopt/prodigy.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("prodigy"), [one], [[one]])
    ...     one.grad = None
    >>> cost(update, frozen(4, 256)).allocated  # three times 2048, two numbers
    6148
    """
    there = [(p, kept) for p, kept in zip(parameters, states, strict=True) if p.grad is not None]
    for p, kept in there:
        if not kept:
            kept += state(settings, p)
        for op, number in (("sub", "dot"), ("abs", "sum")):
            one = result(op, p.shape, p.dtype, p)
            made = new(p.tape, (), p.dtype, op=number)
            del one, made
    if len(there) > 1:
        there[0][0].tape.recorder.mark("Prodigy update")
    denom = None
    for p, _ in there:
        denom = result("sqrt", p.shape, p.dtype, p)
    del denom
