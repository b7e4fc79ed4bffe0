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
from oomph.optimizers.quantised_projection import groups, project, project_back
from oomph.optimizers.settings import Settings
from oomph.tape.sym import Sym, new, row_major

STATES, TARGETS = "within", "last"
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
    tape, dtype, rank = parameter.tape, parameter.dtype, rank_of(settings, parameter)
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
    gradient, and the update in full size twice.

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
    grad = None
    for p, full_rank_grad, kept in in_turn(settings, parameters, states):
        if not settings.is_target(p):
            if not kept:
                kept += _moments(settings, p)
            continue
        grad = project(settings, p, full_rank_grad, kept)
        saved_data = result("clone", p.shape, p.dtype, p)
        data = result("clone", grad.shape, grad.dtype, grad)
        p.storage = saved_data.storage  # nothing else holds the old one
        p.grad = grad
        del full_rank_grad
        settings.targets.add(p.storage.ordinal)
        p.tape.recorder.name(p.storage.ordinal, p.tape.scope, "parameter")
        if len(kept) == PROJECTION:
            kept += _moments(settings, data)
        update = project_back(p, kept)
        del update, data, saved_data
    del grad
