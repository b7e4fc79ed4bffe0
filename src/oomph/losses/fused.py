"""Unsloth's cross entropy, a Triton kernel that writes the gradient over the logits; as fms-acceleration installs it.

transformers' ForCausalLMLoss of 4.46 to 4.49 with another kernel: fp32 copies of the logits, but neither log-softmax
nor a gradient of their size.
Source: fms-acceleration-foak 0.7, kernels/unsloth/cross_entropy_loss.py, FastForCausalLMLoss.
"""

from __future__ import annotations

from oomph import ops
from oomph.losses.labels import shifted
from oomph.losses.logits import projected
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, Sym]:
    """Return loss and logits."""
    logits = projected(hidden_states, weight, bias)
    loss = fast_loss(logits, labels)
    return loss, logits


def fast_loss(logits: Sym, labels: Sym) -> Sym:
    """Mirror FastForCausalLMLoss: its copy of the logits dies when the loss is there."""
    logits.tape.scope = "loss"
    logits = ops.cast(logits, "fp32")
    shift_logits, shift_labels = shifted(logits, labels)
    loss = ops.fused_cross_entropy(shift_logits, shift_labels)
    n_items = count_items(shift_labels)
    return ops.divided(ops.total(loss), n_items)


def count_items(labels: Sym) -> Sym:
    """Return how many labels are not ignored, a scalar on the device."""
    marked = labels.tape.empty(labels.shape, "bool", op="ne")
    n_items = labels.tape.empty((), "int64", op="count_nonzero")
    del marked
    return n_items
