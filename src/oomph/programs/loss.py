"""The end of causal language models as transformers computes it: which positions get logits, and the loss."""

from __future__ import annotations

from oomph import ops
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym, view_of


def kept(hidden_states: Sym, logits_to_keep: Size) -> Sym:
    """Mirror slice_logits_to_keep: the last positions of [B, S, H] as a view; 0 keeps all."""
    length = hidden_states.shape[1]
    if yes(logits_to_keep == 0) or yes(length <= logits_to_keep):
        return hidden_states
    return ops.slice_axis(hidden_states, 1, length - logits_to_keep, length)


def causal_lm_loss(logits: Sym, labels: Sym) -> Sym:
    """Mirror ForCausalLMLoss: logits [B, S, V] in fp32, labels padded by one and shifted.

    The shifted labels are a view for one sequence and a copy for more: axes of length 1 have no stride.
    """
    logits.tape.scope = "loss"
    logits = ops.cast(logits, "fp32")
    batch, length = labels.shape
    labels = labels.tape.empty((batch, length + 1), "int64", op="pad")
    shift_labels = ops.contiguous(view_of(labels, (batch, length), labels.strides))
    logits = ops.view(logits, (batch * length, logits.shape[-1]))
    shift_labels = ops.view(shift_labels, (batch * length,))
    return ops.cross_entropy(logits, shift_labels)
