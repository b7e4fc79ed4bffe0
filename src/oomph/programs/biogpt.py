"""BioGptForCausalLM.forward with its local variables. Source: transformers 5.23, models/biogpt/modeling_biogpt.py."""

from __future__ import annotations

from oomph import ops
from oomph.programs.bart import scaled_embedding
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import (
    call,
    check_positions,
    counted_positions,
    full_attention,
    language_model,
    no_buffers,
    seen_length,
)
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

sliding_windows = full_attention("biogpt.layers")
buffers = no_buffers


def attention(
    m: Bound, hidden_states: Sym, past_key_values: Cache | None, attention_mask: Sym | None, index: int
) -> tuple[Sym, Sym | None]:
    """Mirror BioGptAttention.forward."""
    batch, length, hidden = hidden_states.shape
    shape = (batch, length, m.num_heads, m.head_dim)
    query_states = ops.transpose(ops.view(m.q_proj(hidden_states), shape), 1, 2)
    key_states = m.k_proj(hidden_states)
    value_states = m.v_proj(hidden_states)
    key_states = ops.transpose(ops.view(key_states, shape), 1, 2)
    value_states = ops.transpose(ops.view(value_states, shape), 1, 2)
    if past_key_values is not None:
        key_states, value_states = past_key_values.update(key_states, value_states, index)
    attn_output, attn_weights = ops.encoder_attention(
        query_states, key_states, value_states, attention_mask, m.dropout, causal=True
    )
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    attn_output = m.out_proj(attn_output)
    return attn_output, attn_weights


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror BioGptDecoderLayer.forward, which has no use for position_ids: a checkpoint keeps them alive."""
    residual = hidden_states
    hidden_states = m.self_attn_layer_norm(hidden_states)
    hidden_states, _ = attention(m.self_attn, hidden_states, past_key_values, attention_mask, index)
    hidden_states = m.dropout(hidden_states)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.final_layer_norm(hidden_states)
    hidden_states = m.fc1(hidden_states)
    hidden_states = ops.activate(m.activation, hidden_states)
    hidden_states = m.activation_dropout(hidden_states)
    hidden_states = m.fc2(hidden_states)
    hidden_states = m.dropout(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None = None,
    inputs_embeds: Sym | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool = False,
    position_ids: Sym | None = None,
) -> tuple[Sym, Cache | None]:
    """Mirror BioGptModel.forward: without a mask it makes one of fp32 ones."""
    tape, (batch, length) = m.tape, input_ids.shape
    check_positions(m.embed_positions, length)
    inputs_embeds = scaled_embedding(m.embed_tokens, input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(tape, [None] * len(m.layers.stacked))
    holes, tape.holes = tape.holes, tape.holes and attention_mask is not None  # one that is made here has none
    if attention_mask is None:
        seen = 0 if past_key_values is None else seen_length(past_key_values)
        attention_mask = tape.empty((batch, seen + length), "fp32", op="ones")
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, looks=False)
    tape.holes = holes
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    positions = m.embed_positions(ops.unary(position_ids, "add"))
    hidden_states = inputs_embeds + positions
    hidden_states = next(iter(m.layers)).dropout(hidden_states)
    for index, each in enumerate(m.layers):
        hidden_states = call(
            each, index, layer, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask, position_ids=position_ids,
        )  # fmt: skip
    tape.end_layers()
    hidden_states = m.layer_norm(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "biogpt", "embed_tokens", "output_projection")
