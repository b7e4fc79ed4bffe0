"""APOLLO's AdamW: states of a matrix in a small space, by which its own gradient is scaled, row by row or as a whole.

The small space is random, so there is no singular value decomposition; the update is made of the gradient in full size.
APOLLO-mini has rank 1. Source: apollo-torch 1.0.3, apollo.py, random_projector.py (proj_type "std").
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import cast, result
from oomph.optimizers.projection import in_turn, low_rank, of_projection, project
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, new

STATES, TARGETS = "within", "last"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg and exp_avg_sq like the parameter; of a projected matrix [m, n] the random projection [r, n] (or
    [m, r] if m < n), both moments [m, r] (or [r, n]), and the norm of the last update, a scalar, all in its dtype.

    Source: apollo_torch/apollo.py, AdamW.step; random_projector.py, get_orthogonal_matrix.

    >>> from dataclasses import replace
    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> def kept(one):
    ...     return state(replace(named("apollo_adamw"), rank=8, targets={one.storage.ordinal}), one)
    >>> cost(kept, (64, 32)).allocated  # 8 x 32, twice 64 x 8, a scalar
    2562
    """
    if not settings.is_target(parameter):
        return _moments(parameter, parameter.shape)
    tape, dtype = parameter.tape, parameter.dtype
    ortho_matrix = new(tape, of_projection(parameter, settings.rank), dtype, op="ortho_matrix")
    moments = _moments(parameter, low_rank(parameter, settings.rank))
    return [ortho_matrix, *moments, new(tape, (), dtype, op="scaled_grad")]


def _moments(parameter: Sym, shape: Sequence[Size]) -> list[Sym]:
    return [new(parameter.tape, shape, parameter.dtype, op=op) for op in ("exp_avg", "exp_avg_sq")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update: other parameters first, then the projected ones; of each a denominator and an update, of a
    projected one also its small gradient, and the scaled gradient in full size, from the second step on twice.

    A projection is made in fp32, beside an fp32 copy of the gradient. Local variables live until the next parameter's
    take their place. Source: apollo_torch/apollo.py, AdamW.step.

    >>> from dataclasses import replace
    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     settings = replace(named("apollo_adamw"), rank=8, targets={one.storage.ordinal})
    ...     step(settings, [one], [state(settings, one)])
    ...     one.grad = None
    >>> cost(update, frozen(64, 32)).allocated - 2562  # three times 64 x 8, twice 64 x 32, four norms of rows, scalars
    11787
    """
    grad = denom = norm_grad = factor = scaled_grad = scaled_grad_norm = limiter = None
    for p, grad, kept in in_turn(settings, parameters, states):
        projected = settings.is_target(p)
        full_rank_grad = grad
        if projected:
            grad = project(settings, full_rank_grad, settings.rank, kept, _random)
        if len(kept) < 2 + projected:
            kept += _moments(p, grad.shape)
        denom = result("sqrt", grad.shape, grad.dtype, kept[projected + 1])
        norm_grad = result("div", grad.shape, grad.dtype, kept[projected], denom)
        if projected:
            factor = _scaling_factor(settings, p)
            scaled_grad = result("mul", p.shape, p.dtype, full_rank_grad)
            if len(kept) < 2 + 2:
                kept.append(_norm(p))
            else:
                scaled_grad_norm = _norm(p)
                limiter = _limiter(p)
                scaled_grad = result("div", p.shape, p.dtype, scaled_grad)
                kept[-1] = result("div", (), p.dtype, kept[-1])
            norm_grad = scaled_grad
        del full_rank_grad
    del grad, denom, norm_grad, factor, scaled_grad, scaled_grad_norm, limiter


def _norm(p: Sym) -> Sym:
    return new(p.tape, (), p.dtype, op="linalg_vector_norm")


def _scaling_factor(settings: Settings, p: Sym) -> Sym:
    """Return the norm of an update over that of its gradient, of every row (of every column if m < n), or of all."""
    m, n = p.shape
    shape = () if settings.name == "mini" else ((n,) if yes(m < n) else (m,))
    of_update = new(p.tape, shape, p.dtype, op="linalg_vector_norm")
    of_gradient = new(p.tape, shape, p.dtype, op="linalg_vector_norm")
    of_gradient = result("add", shape, p.dtype, of_gradient)
    return result("div", shape, p.dtype, of_update, of_gradient)


def _limiter(p: Sym) -> Sym:
    """Return what the scaled gradient is divided by, where its norm has grown."""
    growth = result("div", (), p.dtype, new(p.tape, (), p.dtype, op="add"))
    new(p.tape, (), "bool", op="gt")
    return result("div", (), p.dtype, growth)


def _random(weights: Sym, rank: Size) -> Sym:
    """Return a random projection; mirrors GradientProjector.get_orthogonal_matrix."""
    matrix = cast(weights, "fp32")
    shape = of_projection(weights, rank)
    proj = result("div", shape, "fp32", new(weights.tape, shape, "fp32", op="randn"))
    proj = cast(proj, weights.dtype)
    del matrix
    return proj
