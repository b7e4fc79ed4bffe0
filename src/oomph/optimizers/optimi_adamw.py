"""AdamW of torch-optimi: Triton kernels that work in place, and for 16-bit weights a third state that keeps what their
sums lose (Kahan), in the place of fp32 copies.

Source: torch-optimi 0.3.3, adam.py, adamw.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new

STATES = "before"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg, exp_avg_sq and, of 16-bit weights, kahan_comp in the parameter's shape, dtype and layout.

    Source: optimi/adam.py, _init_state; whether it is for Triton is settled only after the first states are made, so
    that fp32 weights have no byte in the place of kahan_comp.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, fp32
    >>> [cost(lambda one: state(named("optimi-adamw"), one), one).allocated for one in ((4, 256), fp32(4, 256))]
    [6144, 8192]
    """
    names = ("exp_avg", "exp_avg_sq", *(["kahan_comp"] if parameter.dtype != "fp32" else []))
    return [new(parameter.tape, parameter.shape, parameter.dtype, parameter.strides, op=op) for op in names]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update: kernels work in place, nothing is allocated.

    Source: optimi/adam.py, _triton_adam.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: step(named("optimi-adamw"), [one], [[]]), frozen(4, 256)).allocated
    0
    """
