"""The logits of a language head: a product, and what some families do to it."""

from __future__ import annotations

from oomph import ops
from oomph.tape.activation_offload import staying
from oomph.tape.sym import Sym, visiting


def projected(hidden_states: Sym, weight: Sym, bias: Sym | None = None) -> Sym:
    """Return hidden states [B, S, H] times a weight [V, H]; bounded by a tanh or scaled where the tape's head is."""
    with staying(hidden_states.tape, "head"):
        logits = _product(hidden_states, weight, bias)
    head = hidden_states.tape.head
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
