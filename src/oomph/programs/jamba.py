"""JambaForCausalLM.forward with its local variables: Mamba in most layers, attention in some, no rotary embedding.

Source: transformers 5.23, models/jamba/modeling_jamba.py.
"""

from __future__ import annotations

from oomph.programs.bamba import sliding_windows
from oomph.programs.cache import Cache
from oomph.programs.frame import language_model, no_buffers
from oomph.programs.hybrid import Hybrid, no_tables
from oomph.tape.bound import Bound
from oomph.tape.sym import Sym

__all__ = ["buffers", "causal_lm", "sliding_windows"]
buffers = no_buffers


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror JambaMambaDecoderLayer.forward and JambaAttentionDecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    if "mamba" in m.parts:
        hidden_states = m.mamba(hidden_states, past_key_values, attention_mask, index)
    else:
        unturned = position_ids, position_ids  # the class has no rotary embedding
        hidden_states, _ = m.self_attn(hidden_states, unturned, attention_mask, past_key_values, index)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.pre_ff_layernorm(hidden_states)
    hidden_states = m.feed_forward(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states


JAMBA = Hybrid(block, "mamba", no_tables, order=("attention_mask", "position_ids"), norm="final_layernorm")
causal_lm = language_model(JAMBA.model, "model", "embed_tokens")
