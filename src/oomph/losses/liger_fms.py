"""Liger's fused linear cross entropy in the form of 2024 that fms-acceleration carries: fp32 logits of each chunk.

Beside a chunk's logits there are an fp32 copy, its gradient in 16 bit and that one scaled. The hidden states are copied
without the last token. Source: fms-acceleration-foak 0.7, fused_ops/liger_ce/fused_linear_cross_entropy_loss.py.
"""

from __future__ import annotations

from oomph.losses.labels import shifted
from oomph.ops.linear_loss import fused_linear_cross_entropy_2024
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, None]:
    """Return the loss; there are no logits. Mirrors lce_forward."""
    shift_hidden_states, shift_labels = shifted(hidden_states, labels)
    return fused_linear_cross_entropy_2024(shift_hidden_states, weight, shift_labels), None
