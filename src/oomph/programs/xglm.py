"""XGLMForCausalLM.forward with its local variables: positions are computed, scores multiplied batch by batch.

Source: transformers 5.23, models/xglm/modeling_xglm.py.
"""

from __future__ import annotations

from oomph import ops
from oomph.ops.scores import maximum
from oomph.programs.bart import scaled_embedding
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import call, check_positions, full_attention, language_model, seen_length
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

sliding_windows = full_attention("model.layers")


def buffers(m: Bound) -> list[Sym]:
    """Return the table of positions."""
    table = m.model.embed_positions
    table.parts["weights"] = m.tape.empty((table.rows, table.size), m.tape.loaded, op="weights")
    return [table["weights"]]


def positions(m: Bound, position_ids: Sym) -> Sym:
    """Mirror XGLMSinusoidalPositionalEmbedding.forward: [P, S, H]."""
    with m.tape.no_grad():
        (rows, length), tape = position_ids.shape, m.tape
        position_ids = ops.unary(position_ids, "add")
        found = tape.empty((rows * length, m.size), m["weights"].dtype, op="index_select")
        return ops.view(found, (rows, length, m.size))


def attention(
    m: Bound, hidden_states: Sym, past_key_values: Cache | None, attention_mask: Sym | None, index: int
) -> tuple[Sym, Sym]:
    """Mirror XGLMAttention.forward."""
    bsz, tgt_len, hidden = hidden_states.shape
    shape = (bsz, tgt_len, m.num_heads, m.head_dim)
    query_states = m.q_proj(hidden_states) * 1.0
    current_states = hidden_states
    key_states = m.k_proj(current_states)
    value_states = m.v_proj(current_states)
    key_states = ops.transpose(ops.view(key_states, shape), 1, 2)
    value_states = ops.transpose(ops.view(value_states, shape), 1, 2)
    if past_key_values is not None:
        key_states, value_states = past_key_values.update(key_states, value_states, index)
    src_len, rows = key_states.shape[2], bsz * m.num_heads
    query_states = ops.transpose(ops.view(query_states, shape), 1, 2)
    query_states = ops.view(query_states, (rows, tgt_len, m.head_dim))
    key_states = ops.view(key_states, (rows, src_len, m.head_dim))
    value_states = ops.view(value_states, (rows, src_len, m.head_dim))
    attn_weights = ops.bmm_cast(query_states, ops.transpose(key_states, 1, 2))
    if attention_mask is not None:
        attn_weights = ops.view(attn_weights, (bsz, m.num_heads, tgt_len, src_len)) + attention_mask
        attn_weights = bounded([attn_weights])
        attn_weights = ops.view(attn_weights, (rows, tgt_len, src_len))
    if attn_weights.dtype == "fp16":
        attn_weights = ops.cast(ops.softmax_in_fp32(attn_weights), "fp16")
    else:
        attn_weights = ops.softmax(attn_weights)
    attn_weights_reshaped = ops.view(attn_weights, (bsz, m.num_heads, tgt_len, src_len))
    attn_weights = ops.view(attn_weights_reshaped, (rows, tgt_len, src_len))
    attn_probs = ops.dropout(attn_weights, m.dropout)
    attn_output = ops.bmm_cast(attn_probs, value_states)
    attn_output = ops.view(attn_output, (bsz, m.num_heads, tgt_len, m.head_dim))
    attn_output = ops.transpose(attn_output, 1, 2)
    attn_output = ops.view(attn_output, (bsz, tgt_len, hidden))
    attn_output = m.out_proj(attn_output)
    return attn_output, attn_weights_reshaped


def bounded(made: list[Sym]) -> Sym:
    """Mirror torch.max(attn_weights, torch.full((), lowest)), which takes the scores over."""
    lowest = made[0].tape.empty((), "fp32", op="full")
    return maximum(made.pop(), lowest)


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    encoder_hidden_states: None,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror XGLMDecoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.self_attn_layer_norm(hidden_states)
    hidden_states, _ = attention(m.self_attn, hidden_states, past_key_values, attention_mask, index)
    hidden_states = m.dropout(hidden_states)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.final_layer_norm(hidden_states)
    hidden_states = ops.activate(m.activation, m.fc1(hidden_states))
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
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror XGLMModel.forward; the class has no sdpa."""
    m.tape.kernel, length = "eager", input_ids.shape[1]
    check_positions(m.embed_positions, length)
    inputs_embeds = scaled_embedding(m.embed_tokens, input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, [None] * len(m.layers.stacked))
    if past_key_values is not None:
        seen_length(past_key_values)
    attention_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, looks=False)
    if position_ids is None:
        position_ids = ops.unsqueeze(m.tape.empty((length,), "int64", op="arange"), 0)
    hidden_states = inputs_embeds + positions(m.embed_positions, position_ids)
    hidden_states = next(iter(m.layers)).dropout(hidden_states)
    for index, each in enumerate(m.layers):
        hidden_states = call(
            each, index, layer, checkpointing, past_key_values, hidden_states, attention_mask, None
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.layer_norm(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "model", "embed_tokens")
