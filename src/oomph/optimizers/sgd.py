"""SGD as torch.optim has it: no state, or with momentum one buffer per parameter, cloned from the first gradient.

No temporaries without weight decay. Source: torch 2.13, torch/optim/sgd.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new

STATES = "after"  # the buffers are clones of the gradients, made within the first step


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return the momentum buffer, if the optimizer has one: the parameter's shape, dtype and layout.

    Source: torch/optim/sgd.py, a clone of the first gradient.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> [cost(lambda one: state(named(name), one), (4, 256)).allocated for name in ("sgd", "sgd-momentum")]
    [0, 2048]
    """
    if settings.name != "sgd-momentum":
        return []
    return [new(parameter.tape, parameter.shape, parameter.dtype, parameter.strides, op="momentum_buffer")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update: everything happens in place, nothing is allocated.

    Source: torch/optim/sgd.py, _multi_tensor_sgd without weight decay.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> cost(lambda one: step(named("sgd"), [one], [[]]), frozen(4, 256))
    Cost(allocated=0, saved=0, backward=0)
    """
