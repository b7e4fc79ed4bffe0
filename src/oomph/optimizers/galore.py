"""GaLore's AdamW: states of a matrix in a space of low rank, into which its gradient is projected.

Gradients stay as large as they are, and every update comes back in full size. A projection is computed by a singular
value decomposition in fp32, in the first step and then now and again; what cuSOLVER allocates for that beside its
results is not modelled. Source: galore-torch 1.0, adamw.py, galore_projector.py (proj_type "std").
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import result
from oomph.optimizers.projection import (
    full_rank,
    in_turn,
    low_rank,
    of_projection,
    project,
    project_back,
    rank_of,
    singular_vectors,
)
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new

STATES, TARGETS = "within", "last"


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg and exp_avg_sq like the parameter; of a projected matrix [m, n] the projection [r, n] (or [m, r]
    if m < n) in the gradient's dtype, and both moments [m, r] (or [r, n]).

    In fp32 the projection is a view that keeps the whole matrix of singular vectors: min(m, n) rows instead of r.
    Source: galore_torch/adamw.py, AdamW.step; galore_projector.py, get_orthogonal_matrix.

    >>> from dataclasses import replace
    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def kept(one):
    ...     return state(replace(named("galore_adamw"), rank=8, targets={one.storage.ordinal}), one)
    >>> cost(kept, frozen(64, 32)).allocated  # 8 x 32 and twice 64 x 8
    2560
    """
    if not settings.is_target(parameter):
        return _moments(parameter, parameter.shape)
    rank = rank_of(settings, parameter)
    kept = full_rank(parameter) if parameter.dtype == "fp32" else rank
    ortho_matrix = new(parameter.tape, of_projection(parameter, kept), parameter.dtype, op="ortho_matrix")
    return [ortho_matrix, *_moments(parameter, low_rank(parameter, rank))]


def _moments(parameter: Sym, shape: Sequence[Size]) -> list[Sym]:
    return [new(parameter.tape, shape, parameter.dtype, op=op) for op in ("exp_avg", "exp_avg_sq")]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update: other parameters first, then the projected ones; of each a denominator and an update, of a
    projected one also its small gradient, and the update in full size twice, before and after it is scaled.

    Local variables live until the next parameter's take their place: one full-size update lies there while the next
    parameter's is made. Source: galore_torch/adamw.py, AdamW.step.

    >>> from dataclasses import replace
    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     settings = replace(named("galore_adamw"), rank=8, targets={one.storage.ordinal})
    ...     step(settings, [one], [state(settings, one)])
    ...     one.grad = None
    >>> cost(update, frozen(64, 32)).allocated - 2560  # three times 64 x 8, twice 64 x 32
    11264
    """
    grad = denom = norm_grad = None
    for p, grad, kept in in_turn(settings, parameters, states):
        projected = settings.is_target(p)
        if projected:
            grad = project(settings, grad, rank_of(settings, p), kept, singular_vectors)
        if len(kept) < 2 + projected:
            kept += _moments(p, grad.shape)
        denom = result("sqrt", grad.shape, grad.dtype, kept[-1])
        norm_grad = result("div", grad.shape, grad.dtype, kept[-2], denom)
        if projected:
            norm_grad = project_back(p, norm_grad)
    del grad, denom, norm_grad
