"""transformers' own loss since 4.50: logits of all tokens, an fp32 copy of them, labels shifted instead of logits.

Per logit 2 bytes in 16 bit and three times 4 in fp32 (copy, log-softmax, a gradient). Source: transformers 5.23,
loss/loss_utils.py, ForCausalLMLoss.
"""

from __future__ import annotations

from oomph import ops
from oomph.losses.labels import padded_and_shifted
from oomph.losses.logits import projected
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, Sym]:
    """Return loss and logits."""
    logits = projected(hidden_states, weight, bias)
    loss = causal_lm_loss(logits, labels)
    return loss, logits


def causal_lm_loss(logits: Sym, labels: Sym) -> Sym:
    """Mirror ForCausalLMLoss: logits [B, S, V] in fp32, labels padded by one and shifted."""
    logits.tape.scope = "loss"
    logits = ops.cast(logits, "fp32")
    batch, length = labels.shape
    labels, shift_labels = padded_and_shifted(labels)
    logits = ops.view(logits, (batch * length, logits.shape[-1]))
    shift_labels = ops.view(shift_labels, (batch * length,))
    return ops.cross_entropy(logits, shift_labels)
