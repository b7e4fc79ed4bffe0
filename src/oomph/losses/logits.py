"""The logits of a language head: a product, and what some families do to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from oomph import ops
from oomph.tape.activation_offload import staying
from oomph.tape.sym import Sym, visiting

if TYPE_CHECKING:
    from oomph.tape.tape import Tape


def projected(hidden_states: Sym, weight: Sym, bias: Sym | None = None) -> Sym:
    """Return hidden states [B, S, H] times a weight [V, H], as the tape's head leaves it."""
    return logits_of(hidden_states.tape, partial(_product, hidden_states, weight, bias))


def logits_of(tape: Tape, product: Callable[[], Sym]) -> Sym:
    """Return what a head's `product` gives, bounded by a tanh or scaled where the tape's head is."""
    with staying(tape, "head"):
        logits = product()
    head = tape.head
    if head == "softcap at once":
        return ops.tanh(logits / 1.0) * 1.0
    if head == "softcap":
        logits = logits / 1.0
        logits = ops.tanh(logits)
    if head:
        logits = logits * 1.0
    return logits


def _product(hidden_states: Sym, weight: Sym, bias: Sym | None) -> Sym:
    """Return the product with a weight, which comes for it where it waits in the machine's memory."""
    weight = visiting(weight)
    bias = None if bias is None else visiting(bias)
    return ops.linear(hidden_states, weight, bias)
