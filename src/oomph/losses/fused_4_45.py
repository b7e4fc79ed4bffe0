"""Unsloth's cross entropy in a model of transformers up to 4.45, which makes its logits fp32 itself.

Source: fms-acceleration-foak 0.7, kernels/unsloth/cross_entropy_loss.py, FastCrossEntropyLoss, in place of
torch.nn.CrossEntropyLoss in transformers 4.45, models/llama/modeling_llama.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.losses.fused import count_items
from oomph.losses.labels import shifted
from oomph.losses.logits import projected
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, Sym]:
    """Return loss and logits, in fp32."""
    logits = projected(hidden_states, weight, bias)
    logits = ops.cast(logits, "fp32")
    logits.tape.scope = "loss"
    shift_logits, shift_labels = shifted(logits, labels)
    return fast_loss(shift_logits, shift_labels), logits


def fast_loss(logits: Sym, target: Sym) -> Sym:
    """Mirror FastCrossEntropyLoss.forward."""
    loss = ops.fused_cross_entropy(logits, target)
    n_items = count_items(target)
    return ops.divided(ops.total(loss), n_items)
