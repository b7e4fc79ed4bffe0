"""Unsloth's cross entropy of logits in their own dtype: models that never made fp32 of them, as gpt_bigcode's.

Source: fms-acceleration-foak 0.7, kernels/unsloth/cross_entropy_loss.py, FastCrossEntropyLoss; transformers 4.48,
models/gpt_bigcode/modeling_gpt_bigcode.py.
"""

from __future__ import annotations

from oomph.losses.fused_4_45 import fast_loss
from oomph.losses.labels import shifted
from oomph.losses.logits import projected
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, Sym]:
    """Return loss and logits."""
    logits = projected(hidden_states, weight, bias)
    logits.tape.scope = "loss"
    shift_logits, shift_labels = shifted(logits, labels)
    return fast_loss(shift_logits, shift_labels), logits
