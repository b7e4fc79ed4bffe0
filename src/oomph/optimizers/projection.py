"""What optimizers of low rank share: the projection of a matrix's gradient, its sizes, and the way back.

Source: galore-torch 1.0, galore_projector.py (proj_type "std").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from oomph.ops.elementwise import cast, result
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, new

State: TypeAlias = "list[Sym]"
Maker: TypeAlias = "Callable[[Sym, Size], Sym]"


def low_rank(p: Sym, rank: Size) -> tuple[Size, Size]:
    """Return the shape of a projected gradient: [m, r], or [r, n] if m < n."""
    m, n = p.shape
    return (m, rank) if yes(m >= n) else (rank, n)


def of_projection(p: Sym, rank: Size) -> tuple[Size, Size]:
    """Return the shape of a projection: [r, n], or [m, r] if m < n."""
    m, n = p.shape
    return (rank, n) if yes(m >= n) else (m, rank)


def full_rank(p: Sym) -> Size:
    """Return how many singular vectors a matrix has."""
    m, n = p.shape
    return n if yes(m >= n) else m


def rank_of(settings: Settings, p: Sym) -> Size:
    """Return the rank that a projection by singular vectors has."""
    most = full_rank(p)
    return most if yes(most < settings.rank) else settings.rank


def in_turn(settings: Settings, parameters: Sequence[Sym], states: Sequence[State]) -> Iterator[tuple[Sym, Sym, State]]:
    """Yield parameters that have a gradient, that, and their states; where projected ones begin, an instant begins."""
    projected = None
    for p, kept in zip(parameters, states, strict=True):
        if projected is False and settings.is_target(p):
            p.tape.recorder.mark("projected optimizer step")
        projected = settings.is_target(p)
        if p.grad is not None:
            yield p, p.grad, kept


def project(settings: Settings, full_rank_grad: Sym, rank: Size, kept: State, maker: Maker) -> Sym:
    """Return a gradient in the small space; the projection, the first of what is kept, is made where it must be."""
    if not kept:
        kept.append(maker(full_rank_grad, rank))
    elif settings.update_projection:
        kept[0] = maker(full_rank_grad, rank)
    return new(full_rank_grad.tape, low_rank(full_rank_grad, rank), full_rank_grad.dtype, op="mm")


def project_back(p: Sym, low_rank_grad: Sym) -> Sym:
    """Return an update in full size, scaled."""
    full_rank_grad = new(p.tape, p.shape, low_rank_grad.dtype, op="mm")
    return result("mul", p.shape, full_rank_grad.dtype, full_rank_grad)


def singular_vectors(weights: Sym, rank: Size) -> Sym:
    """Return the projection that a singular value decomposition gives; mirrors get_orthogonal_matrix."""
    tape, smaller = weights.tape, full_rank(weights)
    m, n = weights.shape
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
