"""The end of causal language models as transformers computes it: which positions get logits, and the loss."""

from __future__ import annotations

from functools import partial

from oomph import ops
from oomph.losses import check_loss, end_of_model, hf
from oomph.losses.logits import logits_of, projected
from oomph.losses.shifted import shifted_loss
from oomph.methods.qat import rounded_linear
from oomph.tape.activation_offload import staying
from oomph.tape.bound import Bound
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym


def kept(hidden_states: Sym, logits_to_keep: Size) -> Sym:
    """Mirror slice_logits_to_keep: the last positions of [B, S, H] as a view; 0 keeps all."""
    length = hidden_states.shape[1]
    if yes(logits_to_keep == 0) or yes(length <= logits_to_keep):
        return hidden_states
    return ops.slice_axis(hidden_states, 1, length - logits_to_keep, length)


def causal_lm_loss(logits: Sym, labels: Sym) -> Sym:
    """Return the class's own loss of logits that a program made; refused where the job has another one."""
    check_loss(logits.tape.loss, "this model")
    with staying(logits.tape, "loss"):
        return (shifted_loss if logits.tape.loss == "shifted" else hf.causal_lm_loss)(logits, labels)


def adapted_head_and_loss(head: Bound, hidden_states: Sym, labels: Sym | None) -> tuple[Sym | None, Sym]:
    """Return the class's own loss, None without labels, of the logits that a head with an adapter makes."""
    logits = logits_of(head.tape, partial(head, hidden_states))
    return None if labels is None else causal_lm_loss(logits, labels), logits


def rounded_head_and_loss(head: Bound, hidden_states: Sym, weight: Sym, labels: Sym | None) -> tuple[Sym | None, Sym]:
    """Return transformers' own loss, None without labels, of the logits that a head with fake quantisers makes."""
    hidden_states.tape.scope = "lm_head"
    logits = rounded_linear(head, hidden_states, weight)
    return None if labels is None else causal_lm_loss(logits, labels), logits


def head_and_loss(
    hidden_states: Sym, weight: Sym, labels: Sym | None, bias: Sym | None = None
) -> tuple[Sym | None, Sym | None]:
    """Return the job's loss, None without labels, and the logits, None where the loss makes none."""
    hidden_states.tape.scope = "lm_head"
    if labels is None:
        logits = projected(hidden_states, weight, bias)
        if logits is not None and hidden_states.tape.release == "4.38":
            logits = ops.cast(logits, "fp32")
        return None, logits
    with staying(hidden_states.tape, "loss"):
        return end_of_model(hidden_states, weight, labels, bias)
