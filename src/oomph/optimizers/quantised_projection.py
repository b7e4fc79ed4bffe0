"""What Q-GaLore's optimizer is made with: codes of a projection, and of a weight, in groups that share a scale.

Codes take a byte each, whatever their bits. Source: q-galore-torch 1.0, q_galore_projector.py, q_galore_adamw8bit.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from oomph.errors import UnsupportedError
from oomph.methods.q_galore import GROUP
from oomph.ops.elementwise import cast, result
from oomph.optimizers.projection import low_rank, of_projection, rank_of, singular_vectors
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import Size, product, settled, yes
from oomph.tape.sym import Sym, new, row_major

Coded: TypeAlias = "list[Sym]"  # codes, scales, zeros


def groups(shape: Sequence[Size]) -> tuple[Size, int]:
    """Return the shape in which numbers are quantised; raises UnsupportedError if the last group is not full."""
    if settled(product(shape)) % GROUP:
        sizes = " x ".join(str(settled(size)) for size in shape)
        raise UnsupportedError(
            f"Q-GaLore quantises {GROUP} numbers at a time, which {sizes} cannot be cut into.", "Take another rank."
        )
    return product(shape) // GROUP, GROUP


def coded(w: Sym, shape: Sequence[Size], *, copied: bool = False, stochastic: bool = False) -> Coded:
    """Return codes, scales and zeros of what a tensor has in a shape; mirrors _quantize, _quantize_stochastic_round.

    `copied`: it does not lie row by row, so that groups are cut from a copy.
    """
    rows = groups(shape)
    one_each = (rows[0], 1)
    w = result("clone", rows, w.dtype, w) if copied else Sym(rows, w.dtype, row_major(rows), w.storage)
    max_val = new(w.tape, one_each, w.dtype, op="amax")
    min_val = new(w.tape, one_each, w.dtype, op="amin")
    scales = result("div", one_each, w.dtype, result("clamp", one_each, w.dtype, result("sub", one_each, w.dtype, w)))
    zeros = result("neg", one_each, w.dtype, result("round", one_each, w.dtype, result("div", one_each, w.dtype, w)))
    _ask_for_nan(scales)
    _ask_for_nan(w)
    w_round = up_round_w = down_round_w = probability = random = None
    if stochastic:
        w_round = result("div", rows, w.dtype, w)
        up_round_w = result("ceil", rows, w.dtype, w_round)
        down_round_w = result("floor", rows, w.dtype, w_round)
        probability = result("sub", rows, w.dtype, w_round)
        random = result("rand_like", rows, w.dtype, probability)
        w = result("where", rows, w.dtype, result("lt", rows, "bool", random))
        w = result("clamp", rows, w.dtype, result("add", rows, w.dtype, w))
        w = cast(w, "uint8")
    else:
        rounded = result("round", rows, w.dtype, result("div", rows, w.dtype, w))
        rounded = result("add", rows, w.dtype, rounded)
        rounded = result("clamp", rows, w.dtype, rounded)
        codes = cast(rounded, "uint8")
        del rounded
        w = codes
    del max_val, min_val, w_round, up_round_w, down_round_w, probability, random
    return [w, scales, zeros]


def _ask_for_nan(w: Sym) -> None:
    found = result("isnan", w.shape, "bool", w)
    total = new(w.tape, (), "int64", op="sum")
    del found
    answer = new(w.tape, (), "bool", op="eq")
    del total, answer


def uncoded(codes: Coded) -> Sym:
    """Return a projection in the dtype of its scales, in groups; mirrors what project and project_back begin with."""
    difference = cast(codes[0], codes[1].dtype)
    difference = result("sub", difference.shape, difference.dtype, difference)
    return result("mul", difference.shape, difference.dtype, difference)


def project(settings: Settings, p: Sym, full_rank_grad: Sym, kept: list[Sym]) -> Sym:
    """Return a gradient in the small space; the first four that are kept, codes, scales and zeros of a projection and a
    vector of it, are made where they must be; mirrors GaLoreProjector.project.
    """
    rank, right = rank_of(settings, p), yes(p.shape[0] >= p.shape[1])
    shape, float_ortho_matrix = of_projection(p, rank), None
    if not kept or settings.update_projection:
        float_ortho_matrix = singular_vectors(full_rank_grad, rank)
        if kept:
            _cosine(kept[3], _vector(float_ortho_matrix, right))
        vector = _vector(float_ortho_matrix, right)
        kept[3:4] = [vector] if kept else []
        made = coded(float_ortho_matrix, shape, copied=not right)  # left singular vectors lie column by column
        if not kept:
            kept += [*made, vector]
        for at, one in enumerate(made):  # the old ones die in this order
            kept[at] = one
        del made, one
    float_ortho_matrix = uncoded(kept[:3])
    low_rank_grad = new(p.tape, low_rank(p, rank), full_rank_grad.dtype, op="mm")
    del float_ortho_matrix
    return low_rank_grad


def _vector(float_ortho_matrix: Sym, right: bool) -> Sym:
    """Return a copy of the first singular vector."""
    m, n = float_ortho_matrix.shape
    return new(float_ortho_matrix.tape, (n if right else m,), float_ortho_matrix.dtype, op="clone")


def _cosine(past: Sym, vector: Sym) -> Sym:
    """Return the cosine of two vectors; mirrors cosine_similarity (ATen/native/Distance.cpp)."""
    tape, dtype = past.tape, past.dtype
    past_norm = result("clone", (1,), dtype, new(tape, (1,), dtype, op="linalg_vector_norm"))
    norm = result("clone", (1,), dtype, new(tape, (1,), dtype, op="linalg_vector_norm"))
    least = new(tape, (), "fp32", op="scalar_tensor")
    past_unit = result("div", past.shape, dtype, past)
    unit = result("div", vector.shape, dtype, vector)
    product = result("mul", vector.shape, dtype, past_unit, unit)
    total = new(tape, (), dtype, op="sum")
    del product, unit, past_unit, least, norm, past_norm
    return total


def project_back(p: Sym, kept: list[Sym]) -> Sym:
    """Return an update in full size, scaled; mirrors GaLoreProjector.project_back."""
    float_ortho_matrix = uncoded(kept[:3])
    full_rank_grad = new(p.tape, p.shape, float_ortho_matrix.dtype, op="mm")
    scaled = result("mul", p.shape, full_rank_grad.dtype, full_rank_grad)
    del float_ortho_matrix, full_rank_grad
    return scaled
