"""SOAP: Adam in the eigenbases of Shampoo's preconditioners: squares of both sides of each matrix, and their vectors.

A side of more than 10000 is left as it is. Bases are found by eigenvectors in the first step, which updates nothing,
and corrected by a QR decomposition every tenth (`precondition_frequency`, an `update_projection` here). What cuSOLVER
takes beside its results is not modelled. Source: pytorch_optimizer 4.1, optimizer/soap.py, SOAP.
"""

from __future__ import annotations

from collections.abc import Sequence

from oomph.ops.elementwise import cast, result
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, new

STATES = "before"
MAX_PRECONDITION_DIM = 10000
HALF = ("bf16", "fp16")


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return exp_avg and exp_avg_sq like the parameter and, of a matrix, for each side of at most 10000 its square
    statistics GG, then for each their eigenvectors Q; what is made on the way to them comes and goes.

    Source: pytorch_optimizer/optimizer/soap.py, init_group, update_pre_conditioner.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, fp32
    >>> def kept(one):
    ...     return [each.shape for each in state(named("soap"), one)]
    >>> cost(lambda one: print(kept(one)), fp32(8, 20000)).allocated - 2 * 4 * 8 * 20000
    [(8, 20000), (8, 20000), (8, 8), (8, 8)]
    512
    """
    moments = [new(parameter.tape, parameter.shape, parameter.dtype, op=op) for op in ("exp_avg", "exp_avg_sq")]
    sides = _small_sides(parameter)
    squares = [_square(parameter, side, "GG") for side in sides]
    if settings.steady:  # they are there already
        return [*moments, *squares, *(_square(parameter, side, "Q") for side in sides)]
    outer_product = _outer_products(parameter, sides)
    bases = _orthogonal_matrices(squares)
    del outer_product
    return [*moments, *squares, *bases]


def _small_sides(p: Sym) -> list[Size]:
    """Return the sides of a matrix that have a preconditioner; none of a vector's."""
    return [] if len(p.shape) < 2 else [side for side in p.shape if not yes(side > MAX_PRECONDITION_DIM)]


def _square(p: Sym, side: Size, op: str) -> Sym:
    return new(p.tape, (side, side), p.dtype, op=op)


def _outer_products(p: Sym, sides: Sequence[Size]) -> Sym | None:
    """Return the last of the products that are added to GG; a variable holds each until the next one is there."""
    outer_product = None
    for side in sides:
        outer_product = _square(p, side, "mm")
    return outer_product


def _orthogonal_matrices(squares: Sequence[Sym]) -> list[Sym]:
    """Mirror get_orthogonal_matrix, which goes on in fp64 where there is no kernel for the dtype."""
    matrices: list[Sym] = []
    values = q = None
    for m in squares:
        if m.dtype in HALF:
            _nearly(m)
            values, q = _eigh(_nearly(cast(m, "fp64")))
            q = cast(q, m.dtype)
        else:
            values, q = _eigh(_nearly(m))
        q = new(m.tape, m.shape, m.dtype, op="flip")
        matrices.append(q)
    del values, q
    return matrices


def _nearly(m: Sym) -> Sym:
    """Return m + 1e-30 * eye."""
    eye = new(m.tape, m.shape, m.dtype, op="eye")
    scaled = result("mul", m.shape, m.dtype, eye)
    del eye
    return result("add", m.shape, m.dtype, scaled)


def _eigh(m: Sym) -> tuple[Sym, Sym]:
    values = new(m.tape, m.shape[:1], m.dtype, op="linalg_eigh")
    return values, new(m.tape, m.shape, m.dtype, op="linalg_eigh")


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update of one parameter after another: gradient and first moment in the eigenbases, a denominator, and
    the update, which comes back from there; then the statistics. The first step makes states alone.

    Local variables live until the next parameter's take their place. Source: pytorch_optimizer/optimizer/soap.py, step.

    >>> from dataclasses import replace
    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, fp32
    >>> def update(one):
    ...     one.grad = one
    ...     step(named("soap"), [one], [[one] * 6])
    ...     one.grad = None
    >>> cost(update, fp32(8, 16)).allocated - 4 * (8 * 8 + 16 * 16)  # nine matrices
    4608
    """
    if not settings.steady:
        return
    grad_projected = exp_avg_sq = de_nom = exp_avg_projected = norm_grad = None
    for p, kept in zip(parameters, states, strict=True):
        if p.grad is None:
            continue
        grad_projected = _projected(p)
        exp_avg_sq = kept[1]
        result("pow", p.shape, p.dtype, p)
        de_nom = result("sqrt", p.shape, p.dtype, exp_avg_sq)
        exp_avg_projected = _projected(p)
        norm_grad = _projected(p, result("div", p.shape, p.dtype, p))
        sides = _small_sides(p)
        outer_product = _outer_products(p, sides)
        if settings.update_projection and sides:
            kept[2 + len(sides) :] = _corrected(p, sides, kept)
        del outer_product
    del grad_projected, exp_avg_sq, de_nom, exp_avg_projected, norm_grad


def _projected(p: Sym, grad: Sym | None = None) -> Sym | None:
    """Mirror project: a product for each basis, of which the next one takes the place; views where there is none."""
    for _ in _small_sides(p):
        grad = new(p.tape, p.shape, p.dtype, op="mm")
    return grad


def _corrected(p: Sym, sides: Sequence[Size], kept: list[Sym]) -> list[Sym]:
    """Mirror get_orthogonal_matrix_qr: new bases, and exp_avg_sq in their order."""
    tape, dtype = p.tape, p.dtype
    exp_avg_sq = kept[1]
    matrices: list[Sym] = []
    matrix_product = est_eig = sort_idx = power_iter = q = r = None
    for side in sides:
        matrix_product = _square(p, side, "mm")
        est_eig = _column_sums(matrix_product)
        sort_idx = _order(est_eig)
        exp_avg_sq = new(tape, p.shape, dtype, op="index_select")
        power_iter = _square(p, side, "index_select")
        q, r = _qr(cast(power_iter, "fp32"))
        q = cast(q, dtype)
        matrices.append(q)
    kept[1] = exp_avg_sq
    del exp_avg_sq, matrix_product, est_eig, sort_idx, power_iter, q, r
    return matrices


def _column_sums(m: Sym) -> Sym:
    product = result("mul", m.shape, m.dtype, m)
    return new(product.tape, m.shape[:1], m.dtype, op="sum")


def _order(values: Sym) -> Sym:
    ordered = new(values.tape, values.shape, values.dtype, op="sort")
    return new(ordered.tape, values.shape, "int64", op="sort")


def _qr(m: Sym) -> tuple[Sym, Sym]:
    return new(m.tape, m.shape, m.dtype, op="linalg_qr"), new(m.tape, m.shape, m.dtype, op="linalg_qr")
