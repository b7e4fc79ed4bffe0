"""transformers' own loss of logits that a hook has made fp32: LLaMA-Factory's upcast_lmhead_output.

What the model returns is then fp32 already, and neither the loss nor accelerate copies it. Source: LLaMA-Factory 0.9.5,
model/model_utils/checkpointing.py, _fp32_forward_post_hook; transformers 5.23, loss/loss_utils.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.losses.hf import causal_lm_loss
from oomph.losses.logits import projected
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, Sym]:
    """Return loss and logits, in fp32."""
    logits = projected(hidden_states, weight, bias)
    logits = ops.cast(logits, "fp32")
    loss = causal_lm_loss(logits, labels)
    return loss, logits
