"""torchtune's CEWithChunkedOutputLoss: logits in 8 chunks along the sequence, each cast to fp32 on its own.

Source: torchtune 0.6.1, modules/loss/ce_chunked_output_loss.py, modules/transformer.py (chunked_output).
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.tape.sym import Sym

CHUNKS = 8


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, Any]:
    """Return loss and the list of logits; the recipe lets go of the logits before backward."""
    length = hidden_states.shape[1]
    sizes = ops.pieces(length, (length + CHUNKS - 1) // CHUNKS)
    chunks = ops.split_axis(hidden_states, 1, sizes)
    logits = [ops.linear(chunk, weight, bias) for chunk in chunks]
    del chunks
    hidden_states.tape.scope = "loss"
    targets = ops.split_axis(labels, 1, sizes)
    total: Sym | None = None
    for chunk, target in zip(logits, targets, strict=True):
        rows = ops.view(chunk, (ops.rows(chunk), chunk.shape[-1]))
        wide = ops.cast(rows, "fp32")
        del rows
        one = ops.cross_entropy(wide, ops.view(target, (target.shape[0] * target.shape[1],)))
        del wide
        total = one if total is None else total + one
    if total is None:
        raise AssertionError("a sequence has at least one chunk")
    return ops.divided(total, labels.tape.empty((), "int64", op="sum")), logits
