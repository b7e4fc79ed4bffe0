"""Logits shifted and copied, in their own dtype: models that come with their code, and gpt_bigcode before 4.46.

Under autocast what comes of log-softmax is made fp32, else it stays. Source: transformers 4.45,
models/gpt_bigcode/modeling_gpt_bigcode.py; modeling_qwen.py of Qwen/Qwen-7B.
"""

from __future__ import annotations

from oomph import ops
from oomph.losses.labels import shifted
from oomph.losses.logits import projected
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, Sym]:
    """Return loss and logits."""
    logits = projected(hidden_states, weight, bias)
    loss = shifted_loss(logits, labels)
    return loss, logits


def shifted_loss(logits: Sym, labels: Sym) -> Sym:
    """Mirror what models did themselves before transformers 4.46: CrossEntropyLoss of shifted logits."""
    logits.tape.scope = "loss"
    shift_logits, shift_labels = shifted(logits, labels)
    return ops.cross_entropy(shift_logits, shift_labels)
