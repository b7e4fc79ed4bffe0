"""BloomForCausalLM.forward with its local variables. Source: transformers 5.23, models/bloom/modeling_bloom.py."""

from __future__ import annotations

from oomph import ops
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import call, full_attention, language_model, no_buffers, refuse_positions
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

sliding_windows = full_attention("transformer.h")
buffers = no_buffers


def attention(
    m: Bound,
    hidden_states: Sym,
    residual: Sym,
    alibi: Sym,
    attention_mask: Sym,
    layer_past: Cache | None,
    rate: float,
    index: int,
) -> tuple[Sym, Sym]:
    """Mirror BloomAttention.forward: scores are a product added to ALiBi, there is no fused kernel."""
    batch_size, q_length, hidden = hidden_states.shape
    heads, size = m.num_heads, m.head_dim
    fused_qkv = m.query_key_value(hidden_states)
    query_layer, key_layer, value_layer = reshape(m, fused_qkv)
    if layer_past is not None:
        key_layer, value_layer = layer_past.update(key_layer, value_layer, index)
    kv_length = key_layer.shape[2]
    query_layer = ops.view(query_layer, (batch_size * heads, q_length, size))
    key_layer = ops.transpose(ops.view(key_layer, (batch_size * heads, kv_length, size)), 1, 2)
    value_layer = ops.view(value_layer, (batch_size * heads, kv_length, size))
    attention_scores = ops.baddbmm(alibi, query_layer, key_layer)
    attn_weights = ops.view(attention_scores, (batch_size, heads, q_length, kv_length))
    attn_weights = attn_weights + attention_mask
    attention_probs = ops.cast(ops.softmax_in_fp32(attn_weights), query_layer.dtype)
    attention_probs = ops.dropout(attention_probs, m.dropout)
    attention_probs_reshaped = ops.view(attention_probs, (batch_size * heads, q_length, kv_length))
    context_layer = ops.bmm_cast(attention_probs_reshaped, value_layer)
    context_layer = merge_heads(m, context_layer, batch_size, hidden)
    output_tensor = m.dense(context_layer)
    output_tensor = dropout_add(output_tensor, residual, rate)
    return output_tensor, attention_probs


def reshape(m: Bound, fused_qkv: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror BloomAttention._reshape: q, k and v of each head side by side, cut without copies."""
    fused_qkv = ops.view(fused_qkv, (*fused_qkv.shape[:2], m.num_heads, 3, m.head_dim))
    query_layer = ops.transpose(ops.select(fused_qkv, 3), 1, 2)
    key_layer = ops.transpose(ops.select(fused_qkv, 3), 1, 2)
    value_layer = ops.transpose(ops.select(fused_qkv, 3), 1, 2)
    return query_layer, key_layer, value_layer


def merge_heads(m: Bound, x: Sym, batch_size: object, hidden: object) -> Sym:
    """Mirror BloomAttention._merge_heads."""
    seq_length = x.shape[1]
    x = ops.view(x, (batch_size, m.num_heads, seq_length, m.head_dim))
    x = ops.transpose(x, 1, 2)
    return ops.view(x, (batch_size, seq_length, hidden))


def dropout_add(x: Sym, residual: Sym, rate: float) -> Sym:
    """Mirror dropout_add."""
    out = ops.dropout(x, rate)
    out = residual + out
    return out


def mlp(m: Bound, hidden_states: Sym, residual: Sym, rate: float) -> Sym:
    """Mirror BloomMLP.forward."""
    hidden_states = ops.bloom_gelu(m.dense_h_to_4h(hidden_states))
    intermediate_output = m.dense_4h_to_h(hidden_states)
    output = dropout_add(intermediate_output, residual, rate)
    return output


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym,
    alibi: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> tuple[Sym, Sym]:
    """Mirror BloomBlock.forward."""
    layernorm_output = m.input_layernorm(hidden_states)
    residual = layernorm_output if m.residual_after_norm else hidden_states
    attention_output, attn_weights = attention(
        m.self_attention, layernorm_output, residual, alibi, attention_mask, past_key_values, m.rate, index
    )
    layernorm_output = m.post_attention_layernorm(attention_output)
    residual = layernorm_output if m.residual_after_norm else attention_output
    output = mlp(m.mlp, layernorm_output, residual, m.rate)
    return output, attn_weights


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    past_key_values: Cache | None = None,
    attention_mask: Sym | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
    position_ids: Sym | None = None,
) -> tuple[Sym, Cache | None]:
    """Mirror BloomModel.forward, which takes no position ids."""
    tape = m.tape
    tape.kernel = "eager"  # the class has no other
    refuse_positions(position_ids)
    inputs_embeds = m.word_embeddings(input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(tape, [None] * len(m.h.stacked))
    batch_size, seq_length, _ = inputs_embeds.shape
    seen = 0 if past_key_values is None else past_key_values.seq_length()
    seq_length_with_past = ops.unary(seen, "add") if isinstance(seen, Sym) else None  # noqa: F841
    del seen
    heads = next(iter(m.h)).self_attention.num_heads
    hidden_states = m.word_embeddings_layernorm(inputs_embeds)
    if attention_mask is None:
        kv_length = seq_length if past_key_values is None else past_key_values.mask_sizes(seq_length, None)[1]
        slopes = ops.alibi_slopes(tape, heads)
        alibi = ops.alibi_of_length(slopes, batch_size, kv_length)
        alibi = ops.repeated(alibi, batch_size, hidden_states.dtype)
    else:
        alibi = ops.alibi_of_mask(attention_mask, heads, hidden_states.dtype)
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, looks=False)
    for index, each in enumerate(m.h):
        outputs = call(
            each, index, block, checkpointing, past_key_values, hidden_states, attention_mask=causal_mask, alibi=alibi
        )
        hidden_states = outputs[0]
    tape.end_layers()
    hidden_states = m.ln_f(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "transformer", "word_embeddings")
