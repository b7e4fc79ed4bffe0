"""Q-GaLore's AdamW: 8-bit moments of projected gradients, and projections that are quantised.

A projection's codes are made for 4 bits and take a byte each; what goes through it is made of them anew each time. The
singular value decomposition is left out while subspaces change little ("lazy"): a step in which some are computed is a
step with `update_projection`. Source: q-galore-torch 1.0, q_galore_adamw8bit.py, q_galore_projector.py; its call of
bitsandbytes is that of versions up to 0.49, whose tenth argument is no bound on updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from oomph.ops.elementwise import result
from oomph.optimizers import bnb
from oomph.optimizers.projection import full_rank, in_turn, low_rank, of_projection, rank_of
from oomph.optimizers.quantised_projection import coded, groups, project, project_back
from oomph.optimizers.settings import Settings
from oomph.tape.autograd import like
from oomph.tape.sym import Sym, new, row_major

STATES, TARGETS, LEAVES_SMALL = "within", "last", True
PROJECTION = 4  # tensors of a projection: codes, scales, zeros, a vector


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return the states of bitsandbytes' 8-bit AdamW; of a projected matrix a byte for each number of the projection, a
    scale and a zero for 256 of them and its first vector in the gradient's dtype, and the states of the projected
    gradient [m, r] (or [r, n] if m < n), fp32 if that has fewer than 4096 elements. Embeddings are no exception.

    Source: q_galore_torch/q_galore_adamw8bit.py, step; q_galore_projector.py, _quantize.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> def kept(one):
    ...     return state(replace(named("q_galore_adamw8bit"), rank=8, targets={one.storage.ordinal}), one)
    >>> cost(kept, (512, 64)).allocated  # 8 x 64 codes, twice 2 scales, 64 numbers; as galore_8bit, without its number
    11016
    """
    if not settings.is_target(parameter):
        return _moments(settings, parameter)
    tape, rank = parameter.tape, rank_of(settings, parameter)
    codes = settings.scales.get(id(parameter))
    dtype = codes[0].dtype if codes else parameter.dtype
    rows, group = groups(of_projection(parameter, rank))
    m, n = low_rank(parameter, rank)
    small = Sym((m, n), dtype, row_major((m, n)), parameter.storage)
    return [
        new(tape, (rows, group), "uint8", op="ortho_matrix"),
        new(tape, (rows, 1), dtype, op="ortho_matrix_scales"),
        new(tape, (rows, 1), dtype, op="ortho_matrix_zeros"),
        new(tape, (full_rank(parameter),), dtype, op="past_ortho_vector"),
        *_moments(settings, small),
    ]


def _moments(settings: Settings, parameter: Sym) -> list[Sym]:
    return bnb.state(replace(settings, name="adamw", embedding_32bit=False), parameter)


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update of one parameter after another, in place but for projected ones: of those the projection in the
    gradient's dtype three times over, there and back, the small gradient, a copy of the parameter, one of the small
    gradient, and the update in full size twice. An int8 weight is made numbers first, three times over; of the updated
    ones a copy is quantised, in whose dtype five tensors as large stand beside each other, a sixth and a mask on top.

    Source: q_galore_torch/q_galore_adamw8bit.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one.detach()
    ...     settings = replace(named("q_galore_adamw8bit"), rank=8, targets={one.storage.ordinal})
    ...     step(settings, [one], [state(settings, one)])
    ...     one.grad = None
    >>> cost(update, frozen(512, 64)).allocated - 11016  # six times 8 x 64, twice 512 x 8, three times 512 x 64
    219136
    """
    float_weight = grad = copied = None
    for p, full_rank_grad, kept in in_turn(settings, parameters, states):
        if not settings.is_target(p):
            if not kept:
                kept += _moments(settings, p)
            continue
        codes = settings.scales.get(id(p))
        if codes:
            float_weight = like(p, full_rank_grad.dtype)
            _unpack(p, float_weight)
        grad = project(settings, p, full_rank_grad, kept)
        saved_data = result("clone", p.shape, p.dtype, p)
        data = result("clone", grad.shape, grad.dtype, grad)
        _become(p, saved_data)
        p.grad = grad
        del full_rank_grad
        if len(kept) == PROJECTION:
            kept += _moments(settings, data)
        update = project_back(p, kept)
        del update, data, saved_data
        if codes:
            copied = result("clone", p.shape, p.dtype, p)
            _pack(p, copied, codes)
        settings.targets.add(p.storage.ordinal)
    del float_weight, grad, copied


def _become(p: Sym, made: Sym) -> None:
    """Play `p.data = made`: nothing else holds what it was."""
    where = p.made_for
    p.storage, p.dtype = made.storage, made.dtype
    p.tape.recorder.name(p.storage.ordinal, where, "parameter")


def _unpack(p: Sym, float_weight: Sym) -> None:
    """Put a copy of an int8 weight's numbers in the place of its codes, after a cast of these."""
    _become(p, like(p, float_weight.dtype))
    _become(p, result("clone", p.shape, p.dtype, float_weight))


def _pack(p: Sym, copied: Sym, kept: tuple[Sym, Sym]) -> None:
    """Put codes, a scale and a zero for each group in the place of a weight's numbers and of those that were."""
    for old, made in zip((p, *kept), coded(copied, p.shape, stochastic=True), strict=True):
        _become(old, made)
