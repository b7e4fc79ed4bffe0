"""GaLore's AdamW: states of a matrix in a space of low rank, into which its gradient is projected.

Gradients stay as large as they are, and every update comes back in full size. A projection is computed by a singular
value decomposition in fp32, in the first step and then now and again; what cuSOLVER allocates for that beside its
results is not modelled. Source: galore-torch 1.0, adamw.py, galore_projector.py (proj_type "std").
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import cast, result
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import Size, yes
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
    ...     return state(replace(named("galore_adamw"), rank=8, targets=frozenset({one.storage.ordinal})), one)
    >>> cost(kept, frozen(64, 32)).allocated  # 8 x 32 and twice 64 x 8
    2560
    """
    if not settings.is_target(parameter):
        return _moments(parameter, parameter.shape)
    m, n, rank = _sizes(settings, parameter)
    kept = rank if parameter.dtype != "fp32" else _smaller(m, n)
    shape = (kept, n) if yes(m >= n) else (m, kept)
    ortho_matrix = new(parameter.tape, shape, parameter.dtype, op="ortho_matrix")
    return [*_moments(parameter, _projected(m, n, rank)), ortho_matrix]


def _moments(parameter: Sym, shape: Sequence[Size]) -> list[Sym]:
    return [new(parameter.tape, shape, parameter.dtype, op=op) for op in ("exp_avg", "exp_avg_sq")]


def _sizes(settings: Settings, parameter: Sym) -> tuple[Size, Size, Size]:
    """Return rows, columns, and the rank that a projection really has."""
    m, n = parameter.shape
    smaller = _smaller(m, n)
    return m, n, smaller if yes(smaller < settings.rank) else settings.rank


def _smaller(m: Size, n: Size) -> Size:
    return n if yes(m >= n) else m


def _projected(m: Size, n: Size, rank: Size) -> tuple[Size, Size]:
    return (m, rank) if yes(m >= n) else (rank, n)


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
    ...     settings = replace(named("galore_adamw"), rank=8, targets=frozenset({one.storage.ordinal}))
    ...     step(settings, [one], [state(settings, one)])
    ...     one.grad = None
    >>> cost(update, frozen(64, 32)).allocated - 2560  # three times 64 x 8, twice 64 x 32
    11264
    """
    pairs = list(zip(parameters, states, strict=True))
    others = [each for each in pairs if not settings.is_target(each[0])]
    targets = [each for each in pairs if settings.is_target(each[0])]
    grad = denom = norm_grad = None
    for at, (p, kept) in enumerate([*others, *targets]):
        if others and at == len(others):
            p.tape.recorder.mark("projected optimizer step")
        if p.grad is None:
            continue
        projected = settings.is_target(p)
        grad = p.grad
        if projected:
            grad = _project(settings, p, grad, kept)
        if len(kept) < 2 + projected:
            kept[:0] = _moments(p, grad.shape)
        denom = result("sqrt", grad.shape, grad.dtype, kept[1])
        norm_grad = result("div", grad.shape, grad.dtype, kept[0], denom)
        if projected:
            norm_grad = _project_back(p, norm_grad)
    del grad, denom, norm_grad


def _project(settings: Settings, p: Sym, full_rank_grad: Sym, kept: list[Sym]) -> Sym:
    """Mirror GaLoreProjector.project; the projection is the last of what is kept."""
    m, n, rank = _sizes(settings, p)
    if not kept:
        kept.append(_orthogonal_matrix(full_rank_grad, m, n, rank))
    elif settings.update_projection:
        kept[-1] = _orthogonal_matrix(full_rank_grad, m, n, rank)
    return new(p.tape, _projected(m, n, rank), p.dtype, op="mm")


def _project_back(p: Sym, low_rank_grad: Sym) -> Sym:
    full_rank_grad = new(p.tape, p.shape, low_rank_grad.dtype, op="mm")
    return result("mul", p.shape, full_rank_grad.dtype, full_rank_grad)


def _orthogonal_matrix(weights: Sym, m: Size, n: Size, rank: Size) -> Sym:
    """Mirror GaLoreProjector.get_orthogonal_matrix: right if m >= n, else left."""
    tape, smaller = weights.tape, _smaller(m, n)
    matrix = cast(weights, "fp32")
    u = new(tape, (m, smaller), "fp32", op="_linalg_svd")
    s = new(tape, (smaller,), "fp32", op="_linalg_svd")
    vh = new(tape, (smaller, n), "fp32", op="_linalg_svd")
    right = yes(m >= n)
    diag = new(tape, (rank, rank), "fp32", op="diag")
    other = new(tape, (m, rank) if right else (rank, n), "fp32", op="mm")
    del diag
    made = vh if right else u
    if weights.dtype != "fp32":
        made = new(tape, (rank, n) if right else (m, rank), weights.dtype, op="_to_copy")
    del matrix, u, s, vh, other
    return made
