"""Shampoo: statistics of both sides of every matrix, and their inverse roots, computed anew in every step.

Nothing is cut into blocks and no side is too large: a table of embeddings has two squares as wide as the vocabulary.
Roots are taken by singular values in fp32; what cuSOLVER takes beside its results is not modelled. Source:
pytorch_optimizer 4.1, optimizer/shampoo.py, Shampoo.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.errors import UnsupportedError
from oomph.ops.elementwise import cast, result
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new

STATES = "before"
SIDES = (1, 2)  # of parameters that are played: vectors and matrices


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return for each side of a parameter its statistics and their inverse root, both squares in the parameter's dtype,
    and what every step leaves as momentum_buffer although momentum is 0: its update.

    Source: pytorch_optimizer/optimizer/shampoo.py, Shampoo.init_group, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> cost(lambda one: state(named("shampoo"), one), (8, 32)).allocated  # twice 8 x 8 and 32 x 32, 8 x 32: bf16
    4864
    """
    if len(parameter.shape) not in SIDES:
        raise UnsupportedError("Shampoo is played for vectors and matrices.", "Choose another optimizer.")
    made = [one for side in parameter.shape for one in _preconditioner(settings, parameter, side)]
    return [*made, _like(parameter, "momentum_buffer")] if settings.steady else made


def _preconditioner(settings: Settings, p: Sym, side: Size) -> tuple[Sym, Sym]:
    if settings.steady:  # it is there already
        return _square(p, side, "pre_cond"), _square(p, side, "inv_pre_cond")
    pre_cond = cast(new(p.tape, (side, side), "fp32", op="eye"), p.dtype)
    return pre_cond, _square(p, side, "inv_pre_cond")


def _square(p: Sym, side: Size, op: str) -> Sym:
    return new(p.tape, (side, side), p.dtype, op=op)


def _like(p: Sym, op: str) -> Sym:
    return new(p.tape, p.shape, p.dtype, op=op)


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update of one parameter after another: the root of each side, of a matrix the gradient times the first,
    a transposed copy of that, which stays until the next parameter, and the update, which stays as a state.

    Source: pytorch_optimizer/optimizer/shampoo.py, Shampoo.step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, fp32
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("shampoo"), [one], [state(named("shampoo"), one)])
    ...     one.grad = None
    >>> cost(update, fp32(8, 16)).allocated - 4 * (2 * 8 * 8 + 2 * 16 * 16 + 8 * 16)  # states; for each side
    6752
    """
    grad_t = None
    for p, kept in zip(parameters, states, strict=True):
        if p.grad is None:
            continue
        grad_t = None  # a view of the gradient takes its place
        _inverse_root(kept[0])
        if len(p.shape) > 1:
            grad_t = result("clone", p.shape, p.dtype, _like(p, "mm"))
            _inverse_root(kept[2])
        update = _like(p, "mm")
        if settings.steady:
            kept.pop()
        kept.append(update)
        del update
    del grad_t


def _inverse_root(pre_cond: Sym) -> None:
    """Mirror compute_power_svd, whose result is copied into the state."""
    tape, shape = pre_cond.tape, pre_cond.shape
    matrix = cast(pre_cond, "fp32")
    u = new(tape, shape, "fp32", op="_linalg_svd")
    s = new(tape, shape[:1], "fp32", op="_linalg_svd")
    vh = new(tape, shape, "fp32", op="_linalg_svd")
    del matrix
    scaled = result("mul", shape, "fp32", u)
    root = new(tape, shape, "fp32", op="mm")
    del scaled
    root = cast(root, pre_cond.dtype)
    del u, s, vh, root
