"""Qwen3NextForCausalLM.forward and that of Qwen3.5's text models, with their local variables.

Source: transformers 5.23, models/qwen3_next/modeling_qwen3_next.py, models/qwen3_5 and models/qwen3_5_moe.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph import ops
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
    position_embeddings: Tables,
    attention_mask: Sym | None,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror Qwen3NextDecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    if "linear_attn" in m.parts:
        hidden_states = m.linear_attn(hidden_states, past_key_values, attention_mask, index)
    else:
        hidden_states, _ = m.self_attn(hidden_states, position_embeddings, attention_mask, past_key_values, index)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.post_attention_layernorm(hidden_states)
    hidden_states = m.mlp(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states


QWEN3_NEXT = Hybrid(block, "linear_attn")
QWEN3_5 = replace(QWEN3_NEXT, tables=ops.section_tables)
buffers, sliding_windows = QWEN3_NEXT.buffers, QWEN3_NEXT.sliding_windows


def causal_lm(
    m: Bound, input_ids: Sym, labels: Sym | None, checkpointing: Checkpointing, model_type: str, **given: Any
) -> Any:
    """Mirror Qwen3NextForCausalLM.forward: loss, logits and cache."""
    frame = QWEN3_NEXT if model_type == "qwen3_next" else QWEN3_5
    program = language_model(frame.model, "model", "embed_tokens")
    return program(m, input_ids, labels, checkpointing, model_type, **given)
