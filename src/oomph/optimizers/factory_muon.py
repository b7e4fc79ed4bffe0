"""Muon as LLaMA-Factory carries it (Moonshot's): one optimizer, whose AdamW of all but hidden matrices is its own.

A matrix has one state. Its update is a copy of the gradient, made orthogonal in bf16 by five steps of an iteration on
small square matrices; the last matrix's stays through AdamW's part, as the variable that holds it does. Source:
LLaMA-Factory 0.9.5, third_party/muon/muon.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from oomph.ops.elementwise import cast, result
from oomph.optimizers.settings import Settings
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, new

if TYPE_CHECKING:
    from oomph.tape.tape import Tape

STATES, TARGETS = "within", "first"
NEWTON_SCHULZ_STEPS = 5  # ns_steps


def state(settings: Settings, parameter: Sym) -> list[Sym]:
    """Return momentum_buffer of a hidden matrix, moment1 and moment2 of any other parameter, all like the parameter.

    Source: third_party/muon/muon.py, step.

    >>> from dataclasses import replace
    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost
    >>> def kept(one, *targets):
    ...     return state(replace(named("muon-llama-factory"), targets=set(targets)), one)
    >>> cost(lambda one: kept(one, one.storage.ordinal), (4, 256)).allocated, cost(kept, (4, 256)).allocated
    (2048, 4096)
    """
    names = ("momentum_buffer",) if settings.is_target(parameter) else ("moment1", "moment2")
    return [new(parameter.tape, parameter.shape, parameter.dtype, parameter.strides, op=name) for name in names]


def step(settings: Settings, parameters: Sequence[Sym], states: Sequence[list[Sym]]) -> None:
    """Play one update: hidden matrices one after another, then all others.

    Of a matrix [m, n]: the gradient with momentum, a bf16 copy of it if it is none, its norm, and five times three
    matrices of the smaller side squared and four of the update's size, of which two live at once.
    Source: third_party/muon/muon.py, step, zeropower_via_newtonschulz5.

    >>> from dataclasses import replace
    >>> from oomph.optimizers.settings import named
    >>> from oomph.tape.testing import cost, frozen
    >>> def update(one):
    ...     one.grad = one
    ...     step(replace(named("muon-llama-factory"), targets={one.storage.ordinal}), [one], [[one]])
    ...     one.grad = None
    >>> cost(update, frozen(4, 256)).allocated  # 2 * 2048 + 4 + 5 (3 * 2048 + 5 * 32)
    35620
    """
    pairs = list(zip(parameters, states, strict=True))
    g: Any = None
    u: Any = None
    hidden = [each for each in pairs if settings.is_target(each[0])]
    others = [each for each in pairs if not settings.is_target(each[0])]
    if hidden:
        hidden[0][0].tape.recorder.mark("Muon step")
    for p, kept in hidden:
        g = p.grad
        if g is None:
            continue
        kept += [] if kept else state(settings, p)
        g = result("add", p.shape, p.dtype, g, kept[0])
        u = _zeropower(g)
    if others:
        others[0][0].tape.recorder.mark("optimizer step")
    for p, kept in others:
        g = p.grad
        if g is None:
            continue
        kept += [] if kept else state(settings, p)
        square = result("square", p.shape, p.dtype, g)
        del square
        root = result("sqrt", p.shape, p.dtype, kept[1])
        root = result("add", p.shape, p.dtype, root)
        g = result("div", p.shape, p.dtype, kept[0], root)
        del root
    del g, u


def _zeropower(g: Sym) -> Sym:
    """Mirror zeropower_via_newtonschulz5, all of it in bf16."""
    tape, (m, n) = g.tape, g.shape
    small, large = (n, m) if yes(m > n) else (m, n)
    x = cast(g, "bf16")
    norm = new(tape, (), "bf16", op="linalg_vector_norm")
    norm = result("add", (), "bf16", norm)
    x = new(tape, (small, large), "bf16", op="div")
    del norm
    for _ in range(NEWTON_SCHULZ_STEPS):
        a = new(tape, (small, small), "bf16", op="mm")
        b = _sum(tape, (small, small), scaled=True)
        x = _sum(tape, (small, large), scaled=False)
    del g, a, b
    return x


def _sum(tape: Tape, shape: tuple[Size, Size], *, scaled: bool) -> Sym:
    """Mirror b * A + c * A @ A, of which a factor is `scaled` first, or a * X + B @ X."""
    first = new(tape, shape, "bf16", op="mul")
    factor = new(tape, shape, "bf16", op="mul") if scaled else None
    second = new(tape, shape, "bf16", op="mm")
    del factor
    made = new(tape, shape, "bf16", op="add")
    del first, second
    return made
