"""No loss: the logits as they are, for an objective that takes log-probabilities itself.

Source: transformers 5.23, models/llama/modeling_llama.py, LlamaForCausalLM.forward without labels.
"""

from __future__ import annotations

from oomph.losses.logits import projected
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[None, Sym]:
    """Return the logits."""
    return None, projected(hidden_states, weight, bias)
