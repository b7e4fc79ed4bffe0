"""AdamW on fp32 copies of the weights, as mixed precision without autocast has it: gradients become fp32 when the step
begins, the weights the copies' numbers when it ends.

The form is BAdam's BlockOptimizer around torch's AdamW with foreach; DeepSpeed's is `--zero-stage`. Source: badam 1.4,
block_optim.py; torch 2.13, torch/optim/adam.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from oomph.ops.elementwise import cast
from oomph.optimizers import adamw
from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new

STATES = "made"
DTYPE = "fp32"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return the fp32 copy and, where there was a step before, its exp_avg and exp_avg_sq: twelve bytes for a weight.

    Source: badam/block_optim.py, _switch_trainable_params_single_gpu.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("adamw-master"), one), (4, 256)).allocated
    12288
    """
    names = ("master", "exp_avg", "exp_avg_sq") if settings.steady else ("master",)
    return [_like(parameter, name) for name in names]


def _like(parameter: Sym, op: str) -> Sym:
    return new(parameter.tape, parameter.shape, DTYPE, parameter.strides, op=op)


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update: all gradients in fp32, of which each takes the place of the 16-bit one; AdamW of weights, then
    of biases, with the roots of all second moments of a group at once; and one weight after another in its own dtype.

    Source: badam/block_optim.py, step_single_gpu; torch/optim/adam.py, _multi_tensor_adam.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, fp32, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("adamw-master"), [one], [state(named("adamw-master"), one)])
    >>> cost(update, frozen(4, 256)).allocated - 12288  # gradient, roots, the weight
    10240
    """
    there = [(p, kept) for p, kept in zip(parameters, states, strict=True) if p.grad is not None]
    gradients: list[Sym] = []
    for p, _ in there:
        assert p.grad is not None
        gradients.append(cast(p.grad, DTYPE))
        p.grad = None
    mark = parameters[0].tape.recorder.mark
    mark("AdamW of the copies")
    for biases in (False, True):
        group = [kept for p, kept in there if p.made_for.endswith("bias") == biases]
        for kept in group:
            if len(kept) == 1:
                kept += [_like(kept[0], op) for op in ("exp_avg", "exp_avg_sq")]
        if group:
            adamw.step(replace(settings, implementation="foreach"), [kept[0] for kept in group], group)
    mark("weights of the copies")
    for p, kept in there:
        cast(kept[0], p.dtype)
    mark("gradients of the copies")
    gradients.reverse()
    while gradients:
        gradients.pop()
