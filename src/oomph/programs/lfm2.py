"""Lfm2ForCausalLM.forward and LFM2-MoE's with their local variables: short convolutions, attention in some layers.

Source: transformers 5.23, models/lfm2/modeling_lfm2.py and models/lfm2_moe/modeling_lfm2_moe.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.programs.cache import Cache
from oomph.programs.frame import language_model
from oomph.programs.hybrid import Hybrid
from oomph.programs.layers import Tables
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_embeddings: Tables,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror Lfm2DecoderLayer.forward."""
    residual = hidden_states
    if "conv" in m.parts:
        hidden_states = m.conv(m.operator_norm(hidden_states), past_key_values, attention_mask, index)
    else:
        hidden_states, _ = m.self_attn(
            m.operator_norm(hidden_states), position_embeddings, attention_mask, past_key_values, index
        )
    hidden_states = hidden_states + residual
    hidden_states = hidden_states + m.feed_forward(m.ffn_norm(hidden_states))
    return hidden_states


LFM2 = Hybrid(
    block, "conv", order=("attention_mask", "position_embeddings", "position_ids"), norm="embedding_norm"
)  # fmt: skip
LFM2_MOE = replace(LFM2, order=("attention_mask", "position_ids", "position_embeddings"))
buffers, sliding_windows = LFM2.buffers, LFM2.sliding_windows


def causal_lm(
    m: Bound, input_ids: Sym, labels: Sym | None, checkpointing: Checkpointing, model_type: str, **given: Any
) -> Any:
    """Mirror Lfm2ForCausalLM.forward: loss, logits and cache."""
    frame = LFM2_MOE if model_type == "lfm2_moe" else LFM2
    program = language_model(frame.model, "model", "embed_tokens")
    return program(m, input_ids, labels, checkpointing, model_type, **given)
