"""GrokAdamW: three states per parameter in host memory, which come to the GPU one parameter at a time.

Gradients are clipped parameter by parameter. Source: grokadamw 0.1.2, grokadamw.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.clip import clip_grad_norm
from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym

STATES = "before"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return nothing: exp_avg, exp_avg_sq and grok_ema are in host memory between steps.

    Source: grokadamw/grokadamw.py, _update_group.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("grokadamw"), one), (4, 256)).allocated
    0
    """
    return []


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[Sequence[Sym]]) -> None:
    """Play one update of one parameter after another: its three states, the scaled average and the new gradient, and a
    root; those of the one before die one by one as the new ones are there.

    Source: grokadamw/grokadamw.py, _update_group.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("grokadamw"), [one], [[]])
    ...     one.grad = None
    >>> cost(update, frozen(4, 256)).allocated  # six times 2048, and the scalars of a norm
    12306
    """
    exp_avg = exp_avg_sq = grok_ema = grok_grad = None
    for p in parameters:
        if p.grad is None:
            continue
        exp_avg, exp_avg_sq = _on_gpu(p), _on_gpu(p)
        grok_ema = _on_gpu(p)
        clip_grad_norm([p], len)
        grok_grad = result("add", p.shape, p.dtype, p.grad, result("mul", p.shape, p.dtype, grok_ema))
        result("sqrt", p.shape, p.dtype, exp_avg_sq)
    del exp_avg, exp_avg_sq, grok_ema, grok_grad


def _on_gpu(p: Sym) -> Sym:
    return result("_to_copy", p.shape, p.dtype, p)
