"""transformers 4.46 to 4.49: an fp32 copy of all logits, and another one of those without the last token.

For one sequence the second is a view. Source: transformers 4.48, loss/loss_utils.py, ForCausalLMLoss.
"""

from __future__ import annotations

from oomph import ops
from oomph.losses.labels import shifted
from oomph.losses.logits import projected
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, Sym]:
    """Return loss and logits."""
    logits = projected(hidden_states, weight, bias)
    loss = upcast_loss(logits, labels)
    return loss, logits


def upcast_loss(logits: Sym, labels: Sym) -> Sym:
    """Mirror ForCausalLMLoss of these versions: its own copy of the logits dies when the loss is there."""
    logits.tape.scope = "loss"
    logits = ops.cast(logits, "fp32")
    shift_logits, shift_labels = shifted(logits, labels)
    return ops.cross_entropy(shift_logits, shift_labels)
