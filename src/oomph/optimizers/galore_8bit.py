"""GaLore's AdamW with 8-bit moments of projected gradients, by the kernels of bitsandbytes.

A projected parameter is copied, stands in for its small gradient while the kernel runs, and gets its copy back: its
storage is another one after each step, and its gradient is the small one. Source: galore-torch 1.0, adamw8bit.py;
bitsandbytes 0.50, optim/optimizer.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from oomph.ops.elementwise import result
from oomph.optimizers import bnb
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
from oomph.tape.sizes import product, yes
from oomph.tape.sym import Sym, new, row_major

STATES, TARGETS, LEAVES_SMALL = "within", "last", True


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return the states of bitsandbytes' 8-bit AdamW; of a projected matrix the projection, and those of the projected
    gradient [m, r] (or [r, n] if m < n), fp32 if that has fewer than 4096 elements. Embeddings are no exception. And
    unorm_vec, a number: the 100 that galore-torch passes is bitsandbytes' max_unorm by now.

    Source: galore_torch/adamw8bit.py, step; bitsandbytes/optim/optimizer.py, init_state.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> def kept(one):
    ...     return state(replace(named("galore_adamw_8bit"), rank=8, targets={one.storage.ordinal}), one)
    >>> cost(kept, (512, 64)).allocated  # 8 x 64 in bf16, twice 512 x 8 in uint8, 16 scales, two tables, a number
    11396
    """
    if not settings.is_target(parameter):
        return _moments(settings, parameter)
    rank = rank_of(settings, parameter)
    kept = full_rank(parameter) if parameter.dtype == "fp32" else rank
    ortho_matrix = new(parameter.tape, of_projection(parameter, kept), parameter.dtype, op="ortho_matrix")
    small = low_rank(parameter, rank)
    like_gradient = Sym(small, parameter.dtype, row_major(small), parameter.storage)
    return [ortho_matrix, *_moments(settings, like_gradient)]


def _moments(settings: Settings, parameter: Sym) -> list[Sym]:
    made = bnb.state(replace(settings, name="adamw", embedding_32bit=False), parameter)
    return [*made, new(parameter.tape, (1,), "fp32", op="unorm_vec")]


def _update(p: Sym) -> None:
    """Play the kernel's call: with fp32 moments, of fewer than 4096 elements, the norm of the weight comes before."""
    if yes(product(p.shape) < bnb.MIN_8BIT_SIZE):
        bnb.norm(p)


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update of one parameter after another, in place but for projected ones: of those the small gradient, a
    copy of the parameter, one of the small gradient, and the update in full size twice.

    Source: galore_torch/adamw8bit.py, step.

    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one.detach()
    ...     settings = replace(named("galore_adamw_8bit"), rank=8, targets={one.storage.ordinal})
    ...     step(settings, [one], [state(settings, one)])
    ...     one.grad = None
    >>> cost(update, frozen(512, 64)).allocated - 11396  # twice 512 x 8, three times 512 x 64
    212992
    """
    grad = None
    for p, full_rank_grad, kept in in_turn(settings, parameters, states):
        if not settings.is_target(p):
            if not kept:
                kept += _moments(settings, p)
            _update(p)
            continue
        grad = project(settings, full_rank_grad, rank_of(settings, p), kept, singular_vectors)
        saved_data = result("clone", p.shape, p.dtype, p)
        data = result("clone", grad.shape, grad.dtype, grad)
        p.storage = saved_data.storage  # nothing else holds the old one
        p.grad = grad
        del full_rank_grad
        settings.targets.add(p.storage.ordinal)
        p.tape.recorder.name(p.storage.ordinal, p.tape.scope, "parameter")
        if len(kept) < 2:
            kept += _moments(settings, data)
        _update(data)
        update = project_back(p, data)
        del update, data, saved_data
    del grad
