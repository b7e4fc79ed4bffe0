"""Muon as torch.optim has it, for the matrices of the decoder layers, and AdamW for everything else, two optimizers.

Muon keeps one state per matrix and makes each update orthogonal in bf16, by five steps of an iteration on small square
matrices. How the rate is adjusted to a matrix's sides (adjust_lr_fn: the original's way or Moonshot's) changes no byte.
Source: torch 2.13, torch/optim/_muon.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import cast, result
from oomph.optimizers import adamw
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym, new

STATES, TARGETS = "within", "first"
NEWTON_SCHULZ_STEPS = 5  # DEFAULT_NS_STEPS


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return momentum_buffer of a hidden matrix, like the parameter; of any other one AdamW's states.

    Source: torch/optim/_muon.py, _init_group; adam.py, _init_group.

    >>> from dataclasses import replace
    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> def kept(one, *targets):
    ...     return state(replace(named("muon"), targets=set(targets)), one)
    >>> cost(lambda one: kept(one, one.storage.ordinal), (4, 256)).allocated, cost(kept, (4, 256)).allocated
    (2048, 4096)
    """
    if not settings.is_target(parameter):
        return adamw.state(settings, parameter)
    return [new(parameter.tape, parameter.shape, parameter.dtype, parameter.strides, op="momentum_buffer")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update of the hidden matrices, one after another, then AdamW's of the others.

    Of a matrix [m, n]: the update, its norm, then five times two matrices of the smaller side squared and a bf16 matrix
    of the update's size; the old ones of each go when the new ones are there. Source: torch/optim/_muon.py,
    _single_tensor_muon, _zeropower_via_newtonschulz.

    >>> from dataclasses import replace
    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(replace(named("muon"), targets={one.storage.ordinal}), [one], [[one]])
    ...     one.grad = None
    >>> cost(update, frozen(4, 256)).allocated  # 2048 + 2 + 2 + 5 (2048 + 2 * 32)
    12612
    """
    pairs = list(zip(parameters, states, strict=True))
    hidden = [each for each in pairs if settings.is_target(each[0])]
    others = [each for each in pairs if not settings.is_target(each[0])]
    _make(settings, hidden)
    if hidden:
        hidden[0][0].tape.recorder.mark("Muon step")
        _muon(hidden)
    _make(settings, others)
    if others:
        others[0][0].tape.recorder.mark("optimizer step")
        adamw.step(settings, [p for p, _ in others], [kept for _, kept in others])


def _make(settings: Settings, pairs: Sequence[tuple[Sym, list[Sym]]]) -> None:
    if any(not kept for _, kept in pairs):
        pairs[0][0].tape.recorder.mark("optimizer states")
        for p, kept in pairs:
            kept += state(settings, p)


def _muon(pairs: Sequence[tuple[Sym, list[Sym]]]) -> None:
    update: Sym | None = None
    for p, (buf,) in pairs:
        if p.grad is None:
            continue
        update = result("lerp", p.shape, p.dtype, p.grad, buf)
        update = _zeropower(update)
    del update


def _zeropower(grad: Sym) -> Sym:
    """Mirror _zeropower_via_newtonschulz, all of it in bf16."""
    tape, (m, n) = grad.tape, grad.shape
    small, large = (n, m) if yes(m > n) else (m, n)
    ortho_grad = cast(grad, "bf16")
    clamped = result("clamp", (), "bf16", new(tape, (), "bf16", op="linalg_vector_norm"))
    del clamped
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram_matrix = new(tape, (small, small), "bf16", op="mm")
        gram_update = new(tape, (small, small), "bf16", op="addmm")
        ortho_grad = new(tape, (small, large), "bf16", op="addmm")
    del grad, gram_matrix, gram_update
    return ortho_grad
