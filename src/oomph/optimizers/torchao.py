"""AdamW of torchao: moments in 8 bits, 4 bits or fp8 with an fp32 scale per block.

A step updates one parameter after another by code that torch.compile makes. It is taken to work in place, which a trace
cannot see: what compiled kernels pass each other, at most a few fp32 copies of the largest parameter, is not played.
Source: torchao 0.18, optim/adam.py, subclass_8bit.py, subclass_4bit.py, subclass_fp8.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from oomph.optimizers.settings import Settings
from oomph.tape.sizes import product, yes
from oomph.tape.sym import Sym, new

STATES = "within"
MIN_SIZE = 4096  # elements below which a state is kept as it is (_new_buffer)


class Codes(NamedTuple):
    """How a moment is stored: the codes' dtype, elements in one of it, numbers in its table, elements under a scale."""

    dtype: str
    per_code: int
    table: int
    block: int


CODES = {
    "8bit": Codes("uint8", 1, 256, 256),
    "4bit": Codes("uint8", 2, 16, 256),  # the HF Trainer's blocks
    "4bit-128": Codes("uint8", 2, 16, 128),
    "fp8": Codes("fp8_e4m3", 1, 0, 256),
}


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg and exp_avg_sq, each as codes, an fp32 scale per block and a table (qmap) of its own; like the
    parameter where that has fewer than 4096 elements or no whole number of blocks. The step counter is in host memory.

    A block has 256 elements; of 4 bits 128 unless the HF Trainer asks. fp8 has no table. Source: torchao/optim/adam.py,
    _new_buffer; subclass_8bit.py, OptimState8bit.zeros, and so on.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> names = ("adamw_torch_8bit", "adamw_torch_4bit", "torchao-adamw-4bit", "torchao-adamw-fp8")
    >>> [cost(lambda one: state(named(name), one), (256, 256)).allocated for name in names]
    [135168, 67712, 69760, 133120]
    """
    tape, shape, elements = parameter.tape, parameter.shape, product(parameter.shape)
    codes = CODES[settings.name]
    made: list[Sym] = []
    for moment in ("exp_avg", "exp_avg_sq"):
        if yes(elements < MIN_SIZE) or not yes(elements % codes.block == 0):
            made.append(new(tape, shape, parameter.dtype, parameter.strides, op=moment))
            continue
        packed = shape if codes.per_code == 1 else (elements // codes.per_code,)
        made.append(new(tape, packed, codes.dtype, op=f"{moment}.codes"))
        made.append(new(tape, (elements // codes.block,), "fp32", op=f"{moment}.scale"))
        if codes.table:
            made.append(new(tape, (codes.table,), "fp32", op=f"{moment}.qmap"))
    return made


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update of one parameter after another, each in place; the first one makes its states.

    Source: torchao/optim/adam.py, step, single_param_adam.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: step(named("adamw_torch_8bit"), [one], [[one]]), frozen(4, 256)).allocated
    0
    """
    for p, kept in zip(parameters, states, strict=True):
        if not kept:
            kept += state(settings, p)
