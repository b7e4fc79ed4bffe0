"""OlmoHybridForCausalLM.forward with its local variables: delta nets behind their norms, attention before them.

Source: transformers 5.23, models/olmo_hybrid/modeling_olmo_hybrid.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from oomph import ops
from oomph.programs.cache import Cache
from oomph.programs.frame import language_model
from oomph.programs.hybrid import Hybrid, no_tables
from oomph.programs.layers import Tables
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym


def block(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: Tables | None,
    attention_mask: Sym | None,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror the forward of OlmoHybridLinearAttentionDecoderLayer or of OlmoHybridAttentionDecoderLayer."""
    residual = hidden_states
    if "linear_attn" in m.parts:
        hidden_states = m.attention_layer_norm(hidden_states)
        hidden_states = m.linear_attn(hidden_states, past_key_values, attention_mask, index)
        hidden_states = residual + hidden_states
        residual = hidden_states
        hidden_states = m.feedforward_layer_norm(hidden_states)
        hidden_states = m.mlp(hidden_states)
    else:
        hidden_states, _ = m.self_attn(hidden_states, position_embeddings, attention_mask, past_key_values, index)
        hidden_states = m.post_attention_layernorm(hidden_states)
        hidden_states = residual + hidden_states
        residual = hidden_states
        hidden_states = m.mlp(hidden_states)
        hidden_states = m.post_feedforward_layernorm(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states


TURNED = Hybrid(block, "linear_attn", tables=partial(ops.rotary_tables, dtype="fp32"), tables_for_all=False)
UNTURNED = replace(TURNED, tables=no_tables)


def _frame(m: Bound) -> Hybrid:
    attention = next(layer.self_attn for layer in m.model.layers if "self_attn" in layer.parts)
    return TURNED if attention.rotary else UNTURNED


def buffers(m: Bound) -> list[Sym]:
    """Return the frequencies of the rotary embedding, if there is one."""
    return _frame(m).buffers(m)


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: keys and values, or states."""
    return TURNED.sliding_windows(m)


def causal_lm(
    m: Bound, input_ids: Sym, labels: Sym | None, checkpointing: Checkpointing, model_type: str, **given: Any
) -> Any:
    """Mirror OlmoHybridForCausalLM.forward: loss, logits and cache."""
    program = language_model(_frame(m).model, "model", "embed_tokens")
    return program(m, input_ids, labels, checkpointing, model_type, **given)
