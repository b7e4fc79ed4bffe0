"""FalconForCausalLM.forward with its local variables. Source: transformers 5.23, models/falcon/modeling_falcon.py."""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.job_words import FLASH_ATTN
from oomph.ops.flash_attn import FlashCall
from oomph.ops.kernel_choice import Call
from oomph.ops.sdpa import scaled_dot_product_attention
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, full_attention, language_model, seen_length
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

sliding_windows = full_attention("transformer.h")


def buffers(m: Bound) -> list[Sym]:
    """Return inv_freq and original_inv_freq, which models with ALiBi have too."""
    return ops.rotary_buffers(m.tape, next(iter(m.transformer.h)).self_attention.head_dim)


def split_heads(m: Bound, fused_qkv: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror FalconAttention._split_heads: [B, S, N, D], [B, S, K, D] twice.

    The new architecture repeats keys and values for every head, all others take one or all as they lie.
    """
    batch, seq_len, _ = fused_qkv.shape
    heads, groups, size = m.num_heads, m.num_kv_heads, m.head_dim
    if m.layout == "grouped":
        qkv = ops.view(fused_qkv, (batch, seq_len, groups, heads // groups + 2, size))
        query = ops.slice_axis(qkv, 3, 0, heads // groups)
        key = ops.picked(qkv, 3)
        value = ops.picked(qkv, 3)
        key = ops.expand(key, query.shape)
        value = ops.expand(value, query.shape)
        query, key, value = [ops.view(x, (batch, seq_len, heads, size)) for x in (query, key, value)]
        return query, key, value
    if m.layout == "multi-query":
        fused_qkv = ops.view(fused_qkv, (batch, seq_len, heads + 2, size))
        return ops.slice_axis(fused_qkv, 2, 0, heads), ops.picked(fused_qkv, 2), ops.picked(fused_qkv, 2)
    fused_qkv = ops.view(fused_qkv, (batch, seq_len, heads, 3, size))
    return ops.select(fused_qkv, 3), ops.select(fused_qkv, 3), ops.select(fused_qkv, 3)


def attention(
    m: Bound,
    hidden_states: Sym,
    alibi: Sym | None,
    attention_mask: Sym,
    layer_past: Cache | None,
    position_embeddings: tuple[Sym, Sym],
    index: int,
) -> tuple[Sym, Sym | None]:
    """Mirror FalconAttention.forward."""
    fused_qkv = m.query_key_value(hidden_states)
    heads, size = m.num_heads, m.head_dim
    query_layer, key_layer, value_layer = split_heads(m, fused_qkv)
    batch_size, query_length = query_layer.shape[:2]
    kv_shape = (batch_size, key_layer.shape[2], query_length, size)
    query_layer = ops.view(ops.transpose(query_layer, 1, 2), (batch_size, heads, query_length, size))
    key_layer = ops.view(ops.transpose(key_layer, 1, 2), kv_shape)
    value_layer = ops.view(ops.transpose(value_layer, 1, 2), kv_shape)
    if alibi is None:
        cos, sin = position_embeddings
        query_layer, key_layer = ops.apply_rotary(query_layer, key_layer, cos, sin)
    if layer_past is not None:
        key_layer, value_layer = layer_past.update(key_layer, value_layer, index)
    if m.tape.kernel in FLASH_ATTN:
        return _with_flash_attn(m, query_layer, key_layer, value_layer, alibi, attention_mask)
    attn_output: Any  # locals in the order of the real frame
    attention_scores: Any = None
    attention_probs: Any = None
    if m.tape.kernel != "eager":
        rate = m.dropout if alibi is not None and m.tape.dropout else 0.0
        attn_output = scaled_dot_product_attention(query_layer, key_layer, value_layer, Call(attention_mask, rate))
    elif alibi is None:
        attention_scores = ops.matmul(query_layer, ops.transpose(key_layer, 2, 3))
        attention_scores = ops.mul_(attention_scores)
        attention_scores = ops.softmax_as(attention_scores + attention_mask, hidden_states.dtype)
        attn_output = ops.matmul(attention_scores, value_layer)
    else:
        matmul_result = ops.matmul(query_layer, ops.transpose(key_layer, 2, 3))
        attention_scores = ops.cast(matmul_result, "fp32")
        attention_logits = attention_scores + alibi
        attention_logits = ops.mul_(attention_logits)
        attention_probs = ops.softmax_as(attention_logits + attention_mask, hidden_states.dtype)
        attention_probs = ops.dropout(attention_probs, m.dropout)
        attn_output = ops.matmul(attention_probs, value_layer)
    attn_output = ops.transpose(ops.view(attn_output, (batch_size, heads, query_length, size)), 1, 2)
    attn_output = ops.view(attn_output, (batch_size, query_length, heads * size))
    attn_output = m.dense(attn_output)
    return attn_output, attention_scores if alibi is None else attention_probs


def _with_flash_attn(
    m: Bound, query_layer: Sym, key_layer: Sym, value_layer: Sym, alibi: Sym | None, attention_mask: Sym | None
) -> tuple[Sym, None]:
    """Mirror the end of FalconFlashAttention2.forward."""
    if alibi is not None:
        raise UnsupportedError("transformers' Falcon refuses flash-attn with ALiBi.", "Say --attention efficient.")
    batch_size, heads, query_length, size = query_layer.shape
    query_layer, key_layer, value_layer = (ops.transpose(x, 1, 2) for x in (query_layer, key_layer, value_layer))
    if query_layer.dtype == "fp32":
        query_layer, key_layer, value_layer = (ops.in_16_bits(x) for x in (query_layer, key_layer, value_layer))
    call = FlashCall(m.dropout if m.tape.dropout else 0.0)
    attn_output = ops.flash_attention_of_rows(query_layer, key_layer, value_layer, attention_mask, query_length, call)
    attn_weights = ops.view(attn_output, (batch_size, query_length, heads * size))
    attn_output = m.dense(attn_weights)
    del attn_weights
    return attn_output, None


def mlp(m: Bound, x: Sym) -> Sym:
    """Mirror FalconMLP.forward."""
    x = ops.activate(m.activation, m.dense_h_to_4h(x))
    x = m.dense_4h_to_h(x)
    return x


def dropout_add(x: Sym, residual: Sym, rate: float) -> Sym:
    """Mirror dropout_add."""
    out = ops.dropout(x, rate)
    out = residual + out
    return out


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym,
    position_ids: Sym,
    alibi: Sym | None,
    position_embeddings: tuple[Sym, Sym],
    past_key_values: Cache | None = None,
    index: int = 0,
) -> tuple[Sym, Sym | None]:
    """Mirror FalconDecoderLayer.forward."""
    residual = hidden_states
    grouped = m.self_attention.layout == "grouped"
    if "ln_attn" in m.parts:
        attention_layernorm_out = m.ln_attn(hidden_states)
        mlp_layernorm_out = m.ln_mlp(hidden_states)
    else:
        attention_layernorm_out = m.input_layernorm(hidden_states)
    attention_output, attn_weights = attention(
        m.self_attention, attention_layernorm_out, alibi, attention_mask, past_key_values, position_embeddings, index
    )
    if not grouped:
        if m.parallel:
            mlp_layernorm_out = attention_layernorm_out
        else:
            residual = dropout_add(attention_output, residual, m.self_attention.dropout)
            mlp_layernorm_out = m.post_attention_layernorm(residual)
    elif "ln_attn" not in m.parts:
        mlp_layernorm_out = attention_layernorm_out
    mlp_output = mlp(m.mlp, mlp_layernorm_out)
    if grouped or m.parallel:
        mlp_output = ops.add_(mlp_output, attention_output)
    output = dropout_add(mlp_output, residual, m.hidden_dropout.rate)
    return output, attn_weights


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
    """Mirror FalconModel.forward: there is always a mask, and ALiBi is worked into it."""
    tape, self_attention = m.tape, next(iter(m.h)).self_attention
    inputs_embeds = m.word_embeddings(input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(tape, [None] * len(m.h.stacked))
    alibi = None
    batch_size = inputs_embeds.shape[0]
    if "alibi" in m.parts:
        mask = attention_mask
        if mask is None:
            seen = 0 if past_key_values is None else seen_length(past_key_values)
            mask = tape.empty((batch_size, seen + input_ids.shape[1]), "int64", op="ones")
        alibi = ops.falcon_alibi(mask, self_attention.num_heads, inputs_embeds.dtype)
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, may_skip=False, looks=False)
    if alibi is not None and causal_mask is not None:
        if causal_mask.dtype == "bool":
            causal_mask = ops.as_numbers(causal_mask, inputs_embeds.dtype)
        alibi = ops.view(alibi, (batch_size, self_attention.num_heads, *alibi.shape[1:]))
        causal_mask = ops.alibi_mask(alibi, causal_mask)
    hidden_states: Sym = inputs_embeds
    position_embeddings = ops.rotary_tables(hidden_states, position_ids, self_attention.head_dim)
    for index, each in enumerate(m.h):
        outputs = call(
            each, index, layer, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask, position_ids=position_ids, alibi=alibi, position_embeddings=position_embeddings,
        )  # fmt: skip
        hidden_states = outputs[0]
    tape.end_layers()
    hidden_states = m.ln_f(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "transformer", "word_embeddings")
