"""PhiForCausalLM.forward with its local variables. Source: transformers 5.23, models/phi/modeling_phi.py."""

from __future__ import annotations

from oomph import ops
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, full_attention, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

sliding_windows = full_attention("model.layers")


def buffers(m: Bound) -> list[Sym]:
    """Return inv_freq and original_inv_freq."""
    return ops.rotary_buffers(m.tape, next(iter(m.model.layers)).self_attn.rotary_dim)


def attention(
    m: Bound,
    hidden_states: Sym,
    position_embeddings: tuple[Sym, Sym],
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    index: int,
) -> tuple[Sym, Sym | None]:
    """Mirror PhiAttention.forward: what is turned and what is not are locals of its frame, to its end."""
    batch, length = hidden_states.shape[:2]
    rotary, size = m.rotary_dim, m.head_dim
    query_shape, key_shape = (batch, length, m.num_heads, size), (batch, length, m.num_kv_heads, size)
    query_states = ops.transpose(ops.view(m.q_proj(hidden_states), query_shape), 1, 2)
    key_states = ops.transpose(ops.view(m.k_proj(hidden_states), key_shape), 1, 2)
    value_states = ops.transpose(ops.view(m.v_proj(hidden_states), key_shape), 1, 2)
    if m[m.norms[0]] is not None:
        query_states = m.q_layernorm(query_states)
        key_states = m.k_layernorm(key_states)
    cos, sin = position_embeddings
    query_rot, query_pass = ops.part(query_states, 0, rotary), ops.slice_axis(query_states, -1, rotary, size)
    key_rot, key_pass = ops.part(key_states, 0, rotary), ops.slice_axis(key_states, -1, rotary, size)
    query_rot, key_rot = ops.apply_rotary(query_rot, key_rot, cos, sin)
    query_states = ops.cat((query_rot, query_pass), -1)
    key_states = ops.cat((key_rot, key_pass), -1)
    if past_key_values is not None:
        key_states, value_states = past_key_values.update(key_states, value_states, index)
    attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * size)))
    attn_output = m.dense(attn_output)
    return attn_output, attn_weights


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_ids: Sym,
    position_embeddings: tuple[Sym, Sym],
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror PhiDecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    attn_outputs, _ = attention(m.self_attn, hidden_states, position_embeddings, attention_mask, past_key_values, index)
    attn_outputs = m.resid_dropout(attn_outputs)
    feed_forward_hidden_states = m.resid_dropout(m.mlp(hidden_states))
    hidden_states = attn_outputs + feed_forward_hidden_states + residual
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror PhiModel.forward."""
    inputs_embeds = m.embed_tokens(input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, [None] * len(m.layers.stacked))
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed)
    inputs_embeds = m.embed_dropout(inputs_embeds)
    hidden_states: Sym = inputs_embeds
    position_embeddings = ops.rotary_tables(hidden_states, position_ids, next(iter(m.layers)).self_attn.rotary_dim)
    for index, each in enumerate(m.layers):
        hidden_states = call(
            each, index, layer, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask, position_ids=position_ids, position_embeddings=position_embeddings,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.final_layernorm(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "model", "embed_tokens")
