"""TRL's fused language head, since 1.15: log-probabilities from tiles of logits, 4096 tokens by 32768 columns.

The tiles are made again in the backward pass, where the gradients of the hidden states and of a weight that trains are
added up in fp32: a head that trains takes 4 bytes per weight more for a moment. Source: trl 1.16, trainer/utils.py
(add_fused_lm_head), kernels/chunked_logprob.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.ops.fused_head import Scored, chunked_log_probs, scatter_where, take_where
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, dict[str, Sym]]:
    """Return the loss, and what there is instead of logits, in the order in which it dies."""
    outputs, mask = scored(hidden_states, weight, labels, hidden_states.tape.scored)
    loss = mean_loss(outputs.log_probs, mask)
    found = {name: each for name, each in outputs._asdict().items() if each is not None}
    return loss, {**found, "label_mask": mask}


def scored(hidden_states: Sym, weight: Sym, labels: Sym, outputs: tuple[str, ...]) -> tuple[Scored, Sym]:
    """Mirror the end of the patched forward: hidden states [B, S, H] to numbers [B, S - 1], and which of them count."""
    tape, length = hidden_states.tape, labels.shape[1]
    tape.scope = "loss"
    hidden_states = ops.slice_axis(hidden_states, 1, 0, length - 1)
    labels = ops.slice_axis(labels, 1, 1, length)
    mask = tape.empty(labels.shape, "bool", op="ne")
    count = counted(labels)
    rows = take_where(hidden_states, mask, count)
    targets = take_where(labels, mask, count)
    per_token = chunked_log_probs(rows, weight, targets, outputs)
    del targets, rows
    laid_out = (None if x is None else scatter_where(x, mask) for x in per_token)
    del per_token  # the generator holds it, as the real one does
    return Scored._make(laid_out), mask


def counted(labels: Sym) -> Size:
    """Return how many of labels [B, S - 1] count: those that are not of a prompt, nor the first of a sequence."""
    (batch, length), tape = labels.shape, labels.tape
    prompt = 1 if yes(tape.prompt_len <= 1) else tape.prompt_len
    begun = tape.sequences if yes(tape.sequences > 1) else 1
    return batch * length if begun == 1 and prompt == 1 else batch * (length + 1 - begun * prompt)


def mean_loss(log_probs: Sym, mask: Sym) -> Sym:
    """Mirror -log_probs.sum() / mask.sum().clamp(min=1)."""
    tape = log_probs.tape
    total = -ops.total(log_probs)
    number = tape.empty((), "int64", op="sum")
    number = tape.empty((), "int64", op="clamp")
    return ops.divided(total, number)
