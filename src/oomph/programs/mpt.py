"""MptForCausalLM.forward with its local variables. Source: transformers 5.23, models/mpt/modeling_mpt.py.

Scores are a product of their own, scaled, with ALiBi in fp32 added: there is no fused kernel.
"""

from __future__ import annotations

from oomph import ops
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import call, check_length, full_attention, language_model, no_buffers, refuse_positions
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

sliding_windows = full_attention("transformer.blocks")
buffers = no_buffers
QKV = 3  # queries, keys and values come from one map


def attention(
    m: Bound,
    hidden_states: Sym,
    position_bias: Sym,
    past_key_values: Cache | None,
    attention_mask: Sym,
    index: int,
) -> tuple[Sym, Sym]:
    """Mirror MptAttention.forward: the output and the weights, which the block holds."""
    batch_size, seq_length, hidden = hidden_states.shape
    shape = (batch_size, seq_length, m.num_heads, m.head_dim)
    mixed_qkv = m.Wqkv(hidden_states)
    if m.clipped:
        mixed_qkv = ops.clamp_both(mixed_qkv)
    query_states, key_states, value_states = ops.split(mixed_qkv, hidden, QKV)
    query_states = ops.transpose(ops.view(query_states, shape), 1, 2)
    key_states = ops.transpose(ops.view(key_states, shape), 1, 2)
    value_states = ops.transpose(ops.view(value_states, shape), 1, 2)
    if past_key_values is not None:
        key_states, value_states = past_key_values.update(key_states, value_states, index)
    attention_scores = ops.matmul(query_states, ops.transpose(key_states, 2, 3)) * 1.0
    seen = None if past_key_values is None else past_key_values.seq_length()
    query_length = counted(seen) if isinstance(seen, Sym) else None  # noqa: F841  held to the end
    key_length, length = key_states.shape[2], position_bias.shape[-1]
    position_bias = ops.slice_axis(position_bias, -1, length - key_length, length)
    attention_scores = attention_scores + position_bias
    attention_scores = ops.masked_fill(attention_scores, attention_mask)
    attn_weights = ops.cast(ops.softmax(ops.cast(attention_scores, "fp32")), value_states.dtype)
    attn_weights = ops.dropout(attn_weights, m.dropout)
    context_states = ops.matmul(attn_weights, value_states)
    context_states = ops.view(ops.contiguous(ops.transpose(context_states, 1, 2)), (batch_size, seq_length, hidden))
    attn_output = m.out_proj(context_states)
    return attn_output, attn_weights


def counted(seen: Sym) -> Sym:
    """Return how many queries there were, as a static cache counts; then it is asked where their ALiBi begins."""
    query_length = ops.unary(seen, "add")
    difference = ops.unary(query_length, "rsub")
    above = seen.tape.empty((), "bool", op="gt")
    del above, difference
    return query_length


def mlp(m: Bound, hidden_states: Sym, residual: Sym, rate: float) -> Sym:
    """Mirror MptMLP.forward."""
    hidden_states = ops.activate(m.activation, m.up_proj(hidden_states))
    intermediate_output = m.down_proj(hidden_states)
    output = ops.dropout(intermediate_output, rate)
    output = output + residual
    return output


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym,
    position_bias: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> tuple[Sym, Sym]:
    """Mirror MptBlock.forward."""
    layernorm_output = m.norm_1(hidden_states)
    residual = hidden_states
    attn_outputs, attn_weights = attention(
        m.attn, layernorm_output, position_bias, past_key_values, attention_mask, index
    )
    hidden_states = ops.dropout(attn_outputs, m.rate) + residual
    layernorm_output = m.norm_2(hidden_states)
    residual = hidden_states
    output = mlp(m.ffn, layernorm_output, residual, m.rate)
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
    """Mirror MptModel.forward, which takes no position ids; ALiBi is made for all positions the config allows."""
    tape = m.tape
    tape.kernel = "eager"  # the class has no other
    refuse_positions(position_ids)
    first = next(iter(m.blocks)).attn
    inputs_embeds = m.wte(input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(tape, [None] * len(m.blocks.stacked))
    hidden_states = inputs_embeds
    alibi = ops.mpt_alibi(tape, first.num_heads, first.positions)
    length = input_ids.shape[1]
    check_length(first.positions, length if past_key_values is None else past_key_values.mask_sizes(length, None)[1])
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, looks=False)
    causal_mask = ops.cast(causal_mask, "bool") if causal_mask is not None else None
    for index, each in enumerate(m.blocks):
        outputs = call(
            each, index, block, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask, position_bias=alibi,
        )  # fmt: skip
        hidden_states = outputs[0]
    tape.end_layers()
    hidden_states = m.norm_f(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "transformer", "wte")
