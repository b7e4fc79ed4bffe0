"""Liger's fused linear cross entropy: logits of one chunk of tokens at a time, all gradients made in the forward pass.

The chunk is as many tokens as make its logits as large as the hidden states, rounded up to a power of two. Kept for
the backward pass are the gradients themselves: of the hidden states and, if it trains, of the weight. Source:
liger-kernel 0.8.5, ops/fused_linear_cross_entropy.py, transformers/model/llama.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.losses.labels import padded_and_shifted
from oomph.ops.linear_loss import fused_linear_cross_entropy
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, None]:
    """Return the loss; there are no logits."""
    return _causal_lm_loss(hidden_states, weight, labels), None


def _causal_lm_loss(hidden_states: Sym, weight: Sym, labels: Sym) -> Sym:
    """Mirror LigerForCausalLMLoss."""
    labels, shift_labels = padded_and_shifted(labels)
    hidden_states = ops.view(hidden_states, (ops.rows(hidden_states), hidden_states.shape[-1]))
    shift_labels = ops.view(shift_labels, (shift_labels.shape[0] * shift_labels.shape[1],))
    result = fused_linear_cross_entropy(hidden_states, weight, shift_labels)
    return result
