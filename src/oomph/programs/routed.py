"""What sparse blocks have in common: tokens in one row, the call of a router."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from oomph import ops
from oomph.tape.bound import Bound
from oomph.tape.sym import Sym

Router = Callable[[Bound, Bound, Sym], "tuple[Sym, Sym, Sym]"]  # of a mixture, its router and [T, H]
SCALE = 2.5  # of the weights; its value changes no byte


def flat(hidden_states: Sym) -> Sym:
    """Return [B, S, H] as [T, H]."""
    return ops.view(hidden_states, (ops.rows(hidden_states), hidden_states.shape[-1]))


def routed(m: Bound, router: Router, hidden_states: Sym) -> tuple[Sym, Sym, Sym]:
    """Call a mixture's router, as whatever module it is: `router` is the forward of its class."""
    made: tuple[Sym, Sym, Sym] = m[m.router_name](hidden_states, partial(router, m))
    return made
