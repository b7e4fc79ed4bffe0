"""AdamW in host memory, as torchao's CPUOffloadOptimizer has it: gradients go there, updated parameters come back.

On the GPU stay parameters, gradients until zero_grad, and the states of small parameters, for which a fused AdamW is
left there. Source: torchao 0.18, optim/cpu_offload.py (without offload_gradients, which is its default).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from oomph.optimizers import adamw
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import product, yes
from oomph.tape.sym import Sym

STATES = "before"
MIN_ON_HOST = 4096  # elements below which a parameter is updated on the GPU (minimal_size)


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return the states of a fused AdamW for a parameter of fewer than 4096 elements; others have theirs in host
    memory.

    Source: torchao/optim/cpu_offload.py, CPUOffloadOptimizer.__init__.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> [cost(lambda one: state(named("torchao-cpu-offload"), one), shape).allocated for shape in ((4, 256), (16, 256))]
    [4100, 0]
    """
    if not yes(product(parameter.shape) < MIN_ON_HOST):
        return []
    return adamw.state(replace(settings, implementation="fused"), parameter)


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update: a kernel for the small ones, the CPU for the others; nothing is allocated on the GPU.

    Source: torchao/optim/cpu_offload.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: step(named("torchao-cpu-offload"), [one], [[]]), frozen(4, 256)).allocated
    0
    """
