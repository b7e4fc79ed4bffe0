"""Unsloth's cross entropy of 2024: all logits in 16 bit, over which the kernel writes the gradient; labels are shifted,
not logits. Until July 2025 also that of at most 1024 tokens.

Source: unsloth 2024.8 and 2025.3.19, models/llama.py, CausalLM_fast_forward, kernels/cross_entropy_loss.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.losses.fused import count_items
from oomph.losses.logits import projected
from oomph.tape.sym import Sym, new


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, Sym]:
    """Return loss and logits."""
    logits = projected(hidden_states, weight, bias)
    return _loss(logits, labels), logits


def _loss(logits: Sym, labels: Sym) -> Sym:
    """Mirror fast_cross_entropy_loss."""
    tape, (batch, length) = logits.tape, labels.shape
    tape.scope = "loss"
    shift_labels = new(tape, (batch, length), "int64", op="hstack")
    rows = ops.view(logits, (batch * length, logits.shape[-1]))
    loss = ops.fused_cross_entropy(rows, ops.view(shift_labels, (batch * length,)))
    n_items = count_items(shift_labels)
    return ops.divided(ops.total(loss), n_items)
