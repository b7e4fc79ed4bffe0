"""OPTForCausalLM.forward with its local variables. Source: transformers 5.23, models/opt/modeling_opt.py."""

from __future__ import annotations

from oomph import ops
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import call, check_positions, full_attention, language_model, no_buffers, seen_length
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

sliding_windows = full_attention("model.decoder.layers")
buffers = no_buffers


def attention(
    m: Bound, hidden_states: Sym, past_key_values: Cache | None, attention_mask: Sym | None, index: int
) -> tuple[Sym, Sym | None]:
    """Mirror OPTAttention.forward: queries are scaled before they are cut into heads."""
    batch, length, hidden = hidden_states.shape
    shape = (batch, length, m.num_heads, m.head_dim)
    query_states = m.q_proj(hidden_states) * 1.0
    query_states = ops.transpose(ops.view(query_states, shape), 1, 2)
    key_states = m.k_proj(hidden_states)
    value_states = m.v_proj(hidden_states)
    key_states = ops.transpose(ops.view(key_states, shape), 1, 2)
    value_states = ops.transpose(ops.view(value_states, shape), 1, 2)
    if past_key_values is not None:
        key_states, value_states = past_key_values.update(key_states, value_states, index)
    attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
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
    """Mirror OPTDecoderLayer.forward: norms stand before attention and MLP, in OPT-350m after them."""
    residual = hidden_states
    if m.pre_norm:
        hidden_states = m.self_attn_layer_norm(hidden_states)
    hidden_states, _ = attention(m.self_attn, hidden_states, past_key_values, attention_mask, index)
    hidden_states = m.dropout(hidden_states)
    hidden_states = residual + hidden_states
    if not m.pre_norm:
        hidden_states = m.self_attn_layer_norm(hidden_states)
    hidden_states_shape = hidden_states.shape
    hidden_states = ops.view(hidden_states, (ops.rows(hidden_states), hidden_states.shape[-1]))
    residual = hidden_states
    if m.pre_norm:
        hidden_states = m.final_layer_norm(hidden_states)
    hidden_states = m.fc1(hidden_states)
    hidden_states = ops.activate(m.activation, hidden_states)
    hidden_states = m.fc2(hidden_states)
    hidden_states = m.dropout(hidden_states)
    hidden_states = ops.view(residual + hidden_states, hidden_states_shape)
    if not m.pre_norm:
        hidden_states = m.final_layer_norm(hidden_states)
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
    position_ids: Sym | None = None,
) -> tuple[Sym, Cache | None]:
    """Mirror OPTDecoder.forward: positions are counted along a mask, a plain one of fp32 ones if there is none."""
    m = m.decoder
    tape, (batch, length) = m.tape, input_ids.shape
    check_positions(m.embed_positions, input_ids.shape[1])
    inputs_embeds = m.embed_tokens(input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(tape, [None] * len(m.layers.stacked))
    seen = 0 if past_key_values is None else seen_length(past_key_values)
    position_attention_mask = attention_mask
    if position_attention_mask is None:
        position_attention_mask = tape.empty((batch, seen + length), "fp32", op="ones")
    if position_ids is None:
        position_ids = ops.unary(position_attention_mask, "cumsum")
        position_ids = ops.counted_along(position_ids)
        position_ids = ops.slice_axis(position_ids, 1, position_ids.shape[1] - length, position_ids.shape[1])
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, looks=False)
    pos_embeds = m.embed_positions(ops.unary(position_ids, "add"))
    if m.project_in is not None:
        inputs_embeds = m.project_in(inputs_embeds)
    hidden_states = inputs_embeds + pos_embeds
    for index, each in enumerate(m.layers):
        hidden_states = call(
            each, index, layer, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask, position_ids=position_ids,
        )  # fmt: skip
    tape.end_layers()
    if m.final_layer_norm is not None:
        hidden_states = m.final_layer_norm(hidden_states)
    if m.project_out is not None:
        hidden_states = m.project_out(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "model", "decoder.embed_tokens")
