"""Unsloth's fused cross entropy of 2026: fp32 logits of a chunk or a tile of tokens, gradients in the forward pass.

Each sequence's last token has no label and is left out. Source: unsloth_zoo 2026.10.9, fused_losses/chunked_logprob.py
(unsloth_chunked_ce_loss), fused_linear.py; unsloth 2026.10.9, models/llama.py, CausalLM_fast_forward.
"""

from __future__ import annotations

from oomph import ops
from oomph.ops.unsloth_loss import unsloth_cross_entropy
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym, new


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, None]:
    """Return the loss; there are no logits."""
    hidden_states.tape.scope = "loss"
    return _chunked_ce_loss(hidden_states, weight, labels), None


def _chunked_ce_loss(hidden_states: Sym, weight: Sym, labels: Sym) -> Sym:
    """Mirror unsloth_chunked_ce_loss."""
    batch, length = labels.shape
    targets = _targets(labels)
    divisor = _divisor(targets)
    hidden = ops.view(hidden_states, (batch * length, hidden_states.shape[-1]))
    return _cross_entropy(hidden, weight, targets, divisor, batch * (length - 1))


def _targets(labels: Sym) -> Sym:
    """Mirror _ce_targets: labels without the first, and one that is ignored."""
    tape, (batch, length) = labels.tape, labels.shape
    pad = new(tape, (batch, 1), "int64", op="full_like")  # noqa: F841
    return ops.view(new(tape, (batch, length), "int64", op="cat"), (batch * length,))


def _divisor(targets: Sym) -> Sym:
    """Mirror _ce_divisor: how many labels count, in fp32, and one where none does."""
    marked = new(targets.tape, targets.shape, "bool", op="ne")
    count = new(targets.tape, (), "int64", op="sum")
    del marked
    found = new(targets.tape, (), "fp32", op="_to_copy")
    del count
    return _not_zero(found)


def _not_zero(number: Sym) -> Sym:
    """Mirror torch.where(number == 0, torch.ones_like(number), number)."""
    none, one = new(number.tape, (), "bool", op="eq"), new(number.tape, (), "fp32", op="ones_like")
    found = new(number.tape, (), "fp32", op="where")
    del none, one
    return found


def _cross_entropy(hidden: Sym, weight: Sym, targets: Sym, divisor: Sym, counted: Size) -> Sym:
    """Mirror fused_linear_cross_entropy."""
    divisor = _not_zero(divisor)
    scaling = new(hidden.tape, (), "fp32", op="ones")
    return unsloth_cross_entropy(hidden, weight, targets, divisor, scaling, counted)
