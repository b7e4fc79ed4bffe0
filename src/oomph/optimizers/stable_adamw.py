"""StableAdamW of torch-optimi, as the HF Trainer sets it up: Triton kernels that work in place.

Sums of 16-bit weights are compensated (Kahan), which takes a third state. Source: torch-optimi 0.3.3, stableadamw.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new

STATES = "before"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg, exp_avg_sq and, of 16-bit weights, kahan_comp in the parameter's shape, dtype and layout; eps_sq
    and mean_square, which are scalars, and a byte in place of kahan_comp in fp32.

    Source: optimi/stableadamw.py, _init_state.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, fp32
    >>> [cost(lambda one: state(named("stable_adamw"), one), one).allocated for one in ((4, 256), fp32(4, 256))]
    [6150, 8201]
    """
    tape, shape, dtype, strides = parameter.tape, parameter.shape, parameter.dtype, parameter.strides
    moments = [new(tape, shape, dtype, strides, op=op) for op in ("exp_avg", "exp_avg_sq")]
    eps_sq = new(tape, (), dtype, op="eps_sq")
    if dtype == "fp32":
        kahan_comp = new(tape, (1,), "uint8", op="kahan_comp")
    else:
        kahan_comp = new(tape, shape, dtype, strides, op="kahan_comp")
    return [*moments, eps_sq, kahan_comp, new(tape, (1,), "fp32", op="mean_square")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update: kernels work in place, nothing is allocated.

    Source: optimi/stableadamw.py, _triton_stableadamw.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: step(named("stable_adamw"), [one], [[]]), frozen(4, 256)).allocated
    0
    """
