"""The mean of fp32 logits, as profiling scripts take it who want a scalar and no labels; transformers up to 4.44.

Source: transformers 4.38, models/llama/modeling_llama.py: `logits = logits.float()` with or without labels.
"""

from __future__ import annotations

from oomph import ops
from oomph.losses.logits import projected
from oomph.tape.sym import Sym


def end(hidden_states: Sym, weight: Sym, labels: Sym, bias: Sym | None = None) -> tuple[None, Sym]:
    """Return the logits, in fp32: the caller takes their mean."""
    logits = projected(hidden_states, weight, bias)
    logits = ops.cast(logits, "fp32")
    return None, logits
