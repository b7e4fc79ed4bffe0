"""AdamW as torch.optim has it: two states per parameter in the parameter's dtype, three with amsgrad.

Temporaries: foreach makes the square roots of all second moments at once, one more copy of the parameters; loop makes
two of one parameter's size; fused makes none but keeps its step counters on the GPU (the others keep them in host
memory). Source: torch 2.13, torch/optim/adam.py (_multi_tensor_adam, _single_tensor_adam, _init_group).
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.settings import Settings, by_dtype
from oomph.tape.sym import Sym, new

STATES = "before"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return step (fused only, fp32 scalar), exp_avg, exp_avg_sq and, with amsgrad, max_exp_avg_sq in the parameter's
    shape, dtype and layout.

    They live as long as the optimizer: twice the parameters. Source: torch/optim/adam.py, _init_group.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> ways = [named("adamw", "foreach"), named("adamw", "fused"), named("adamw-amsgrad", "foreach")]
    >>> [cost(lambda one: state(way, one), (4, 256)).allocated for way in ways]
    [4096, 4100, 6144]
    """
    tape, shape, strides = parameter.tape, parameter.shape, parameter.strides
    counter = [new(tape, (), "fp32", op="step")] if settings.implementation == "fused" else []
    moments = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if settings.name == "amsgrad" else [])]
    return counter + [new(tape, shape, parameter.dtype, strides, op=op) for op in moments]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update of `parameters` with their `states`; nothing of it stays.

    foreach makes the square roots of all second moments of a dtype at once, dtype after dtype from the last that
    occurs on (torch groups them in a hash map), those before dying only when the next are there; loop a root and a
    denominator of one parameter after another, fused works in place; so does amsgrad's maximum. transformers' own AdamW
    (adamw_hf, up to 4.56) makes the denominator of the root itself. torch 2.0's foreach adds epsilon out of place, so a
    denominator stands beside each root, and goes through the dtypes in the order in which they occur. Source:
    torch/optim/adam.py, _multi_tensor_adam, _single_tensor_adam; torch 2.0.1, torch/optim/adamw.py,
    _multi_tensor_adamw; transformers 4.16, optimization.py, AdamW.step.

    >>> from dataclasses import replace
    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one, how):
    ...     return step(named("adamw", how), [one], [[one, one]])
    >>> [cost(lambda one: update(one, how), frozen(4, 256)).allocated for how in ("foreach", "loop", "fused")]
    [2048, 4096, 0]
    >>> apart = replace(named("adamw"), denominators_apart=True)
    >>> cost(lambda one: step(apart, [one], [[one, one]]), frozen(4, 256)).allocated
    4096
    >>> cost(lambda one: step(named("adamw_hf", "loop"), [one], [[one, one]]), frozen(4, 256)).allocated
    2048
    """
    if settings.implementation == "foreach" and settings.denominators_apart:
        _step_of_2_0([one[-1] for one in states])
    elif settings.implementation == "foreach":
        for second_moments in by_dtype([one[-1] for one in states]):
            roots = [result("_foreach_sqrt", one.shape, one.dtype, one) for one in second_moments]
        del roots
    elif settings.name == "hf":
        for one in states:
            denominator = result("sqrt", one[-1].shape, one[-1].dtype, one[-1])
        del denominator
    elif settings.implementation == "loop":
        for one in states:
            second = one[-1]
            denominator = result("div", second.shape, second.dtype, result("sqrt", second.shape, second.dtype, second))
        del denominator


def _step_of_2_0(second_moments: Sequence[Sym]) -> None:
    """Play torch 2.0.1's _multi_tensor_adamw: what a dtype leaves dies one by one as the next dtype's is there."""
    for group in reversed(by_dtype(second_moments)):
        roots = [result("_foreach_sqrt", one.shape, one.dtype, one) for one in group]
        denominators = [result("_foreach_add", one.shape, one.dtype, one) for one in roots]
    del roots, denominators
