"""transformers up to 4.45: the model makes its logits fp32 and returns them so; another copy without the last token.

Source: transformers 4.45, models/llama/modeling_llama.py, LlamaForCausalLM.forward.
"""

from __future__ import annotations

from oomph import ops
from oomph.losses.logits import projected
from oomph.losses.shifted import shifted_loss
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[Sym, Sym]:
    """Return loss and logits, in fp32."""
    logits = projected(hidden_states, weight, bias)
    logits = ops.cast(logits, "fp32")
    loss = shifted_loss(logits, labels)
    return loss, logits
