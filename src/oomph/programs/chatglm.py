"""ChatGLMForConditionalGeneration.forward of ChatGLM2 and 3 with its local variables: tokens come before batches.

Hidden states are [S, B, H]. A table of turns for all positions that the config allows is made in every forward pass;
half of each head is turned, in pairs. Attention is torch's scaled_dot_product_attention whatever a job names; layers
are checkpointed re-entrantly, all of them. Source: the code of the repository (THUDM/chatglm3-6b, modeling_chatglm.py
of late 2023). Its apply_rotary_pos_emb is compiled by torch.jit.script; it is played as if it were not, a few products
of a quarter of a head each.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.losses.own import check_own
from oomph.ops.kernel_choice import Call
from oomph.ops.sdpa import scaled_dot_product_attention
from oomph.programs.cache import Cache
from oomph.programs.frame import call, check_length, full_attention, no_buffers, refuse_positions
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym

sliding_windows = full_attention("transformer.encoder.layers")
buffers = no_buffers  # the one there is, inv_freq, is stored

KeyValue = tuple[Sym, Sym]


def rotary_cache(m: Bound, dtype: str) -> Sym:
    """Mirror RotaryEmbedding.forward_impl: cos and sin of all positions [P, D / 4, 2] in the dtype of the buffer."""
    tape, length = m.tape, m.positions
    (pairs,) = m.inv_freq.shape
    powers = ops.unary(ops.unary(tape.empty((pairs,), "fp32", op="arange"), "div"), "pow")
    theta = ops.unary(ops.unary(powers, "reciprocal"), "mul")
    del powers
    seq_idx = tape.empty((length,), "fp32", op="arange")
    idx_theta = tape.empty((length, pairs), "fp32", op="outer")
    cache = ops.stack_last([ops.unary(idx_theta, "cos"), ops.unary(idx_theta, "sin")])
    cache = ops.cast(cache, dtype)
    del theta, seq_idx, idx_theta
    return cache


def apply_rotary_pos_emb(x: Sym, rope_cache: Sym) -> Sym:
    """Mirror apply_rotary_pos_emb: x [S, B, N, D] whose first half of channels is turned, [S, B or 1, D / 4, 2]."""
    length, batch, heads, size = x.shape
    pairs = rope_cache.shape[-2]
    rot_dim = pairs * 2
    x, x_pass = ops.part(x, 0, rot_dim), ops.part(x, rot_dim, size)
    xshaped = ops.view(x, (length, batch, heads, pairs, 2))
    rope_cache = ops.view(rope_cache, (length, rope_cache.shape[1], 1, pairs, 2))
    x_out2 = ops.stack_last(
        [
            ops.select(xshaped, -1) * ops.select(rope_cache, -1) - ops.select(xshaped, -1) * ops.select(rope_cache, -1),
            ops.select(xshaped, -1) * ops.select(rope_cache, -1) + ops.select(xshaped, -1) * ops.select(rope_cache, -1),
        ]
    )
    x_out2 = ops.view(x_out2, (length, batch, heads, rot_dim))
    return ops.cat((x_out2, x_pass), -1)


def core_attention(query_layer: Sym, key_layer: Sym, value_layer: Sym, attention_mask: Sym | None) -> Sym:
    """Mirror CoreAttention.forward of torch 2: [S, B, N, D] to [S, B, N * D]; a mask is turned round in each layer."""
    length, batch, heads, size = query_layer.shape
    query_layer, key_layer, value_layer = (
        ops.transpose(ops.transpose(each, 0, 1), 1, 2) for each in (query_layer, key_layer, value_layer)
    )
    if attention_mask is None:
        context_layer = scaled_dot_product_attention(query_layer, key_layer, value_layer, Call(is_causal=True))
    else:
        attention_mask = ops.unary(attention_mask, "bitwise_not")
        context_layer = scaled_dot_product_attention(query_layer, key_layer, value_layer, Call(attention_mask))
    context_layer = ops.transpose(ops.transpose(context_layer, 1, 2), 0, 1)
    context_layer = ops.view(context_layer, (length, batch, heads * size))
    return context_layer


def attention(
    m: Bound, hidden_states: Sym, attention_mask: Sym | None, rotary_pos_emb: Sym, presents: list[KeyValue] | None
) -> Sym:
    """Mirror SelfAttention.forward; `presents`, if any, takes keys and values before heads share them."""
    length, batch = hidden_states.shape[:2]
    heads, groups, size = m.num_heads, m.num_kv_heads, m.head_dim
    mixed_x_layer = m.query_key_value(hidden_states)
    if m.multi_query:
        query_layer, key_layer, value_layer = ops.split_sizes(
            mixed_x_layer, (heads * size, groups * size, groups * size)
        )
        query_layer = ops.view(query_layer, (length, batch, heads, size))
        key_layer = ops.view(key_layer, (length, batch, groups, size))
        value_layer = ops.view(value_layer, (length, batch, groups, size))
    else:
        mixed_x_layer = ops.view(mixed_x_layer, (length, batch, heads, mixed_x_layer.shape[-1] // heads))
        query_layer, key_layer, value_layer = ops.split(mixed_x_layer, size, mixed_x_layer.shape[-1] // size)
    query_layer = apply_rotary_pos_emb(query_layer, rotary_pos_emb)
    key_layer = apply_rotary_pos_emb(key_layer, rotary_pos_emb)
    if presents is not None:
        presents.append((key_layer, value_layer))
    if m.multi_query:
        key_layer = repeated(key_layer, heads // groups)
        value_layer = repeated(value_layer, heads // groups)
    context_layer = core_attention(query_layer, key_layer, value_layer, attention_mask)
    output: Sym = m.dense(context_layer)
    return output


def repeated(layer: Sym, times: Size) -> Sym:
    """Return keys or values [S, B, G, D] once for each head that shares them: [S, B, G * times, D], a copy."""
    length, batch, groups, size = layer.shape
    layer = ops.unsqueeze(layer, 3)
    layer = ops.expand(layer, (length, batch, groups, times, size))
    return ops.view(ops.contiguous(layer), (length, batch, groups * times, size))


def mlp(m: Bound, hidden_states: Sym) -> Sym:
    """Mirror MLP.forward."""
    intermediate_parallel = m.dense_h_to_4h(hidden_states)
    intermediate_parallel = swiglu(m, intermediate_parallel)
    output: Sym = m.dense_4h_to_h(intermediate_parallel)
    return output


def swiglu(m: Bound, fused: Sym) -> Sym:
    """Mirror swiglu: silu(gate) * up of one map's result."""
    x = ops.split(fused, m.ffn_size, 2)
    return ops.silu(x[0]) * x[1]


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    rotary_pos_emb: Sym,
    past_key_values: list[KeyValue] | None = None,
    index: int = 0,
) -> tuple[Sym, None]:
    """Mirror GLMBlock.forward; `past_key_values`, if any, takes what the layer would cache."""
    layernorm_output = m.input_layernorm(hidden_states)
    presents = past_key_values
    attention_output = attention(m.self_attention, layernorm_output, attention_mask, rotary_pos_emb, presents)
    residual = layernorm_output if m.residual_after_norm else hidden_states
    layernorm_input = ops.dropout(attention_output, m.rate)
    layernorm_input = residual + layernorm_input
    layernorm_output = m.post_attention_layernorm(layernorm_input)
    mlp_output = mlp(m.mlp, layernorm_output)
    residual = layernorm_output if m.residual_after_norm else layernorm_input
    output = ops.dropout(mlp_output, m.rate)
    output = residual + output
    return output, None


def encoder(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    rotary_pos_emb: Sym,
    checkpointing: Checkpointing,
    presents: list[KeyValue] | None,
) -> Sym:
    """Mirror GLMTransformer.forward: what the last layer returned is held to the end."""
    caches: Any = presents if checkpointing.kind == "none" else None
    for index, layer in enumerate(m.layers):
        layer_ret = call(layer, index, block, checkpointing, caches, hidden_states, attention_mask, rotary_pos_emb)
        hidden_states = layer_ret[0]
    m.tape.end_layers()
    if m.final_layernorm is not None:
        hidden_states = m.final_layernorm(hidden_states)
    return hidden_states


def full_mask(input_ids: Sym, padding_mask: Sym) -> Sym:
    """Mirror get_masks: booleans [B, 1, S, S] of what is not looked at, made of fp32 ones."""
    tape, (batch, length) = input_ids.tape, input_ids.shape
    full_attention_mask = tape.empty((batch, length, length), "fp32", op="ones")
    full_attention_mask = ops.unary(full_attention_mask, "mul")
    less = ops.unary(padding_mask, "sub")
    del less
    return tape.empty((batch, 1, length, length), "bool", op="lt")


def embedded(m: Bound, input_ids: Sym) -> Sym:
    """Mirror Embedding.forward: [S, B, H], a copy for more than one sequence."""
    words_embeddings = m.word_embeddings(input_ids)
    return ops.contiguous(ops.transpose(words_embeddings, 0, 1))


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    presents: list[KeyValue] | None,
) -> Sym:
    """Mirror ChatGLMModel.forward."""
    length = input_ids.shape[1]
    check_length(m.rotary_pos_emb.positions, length)
    inputs_embeds = embedded(m.embedding, input_ids)
    full_attention_mask = None
    if attention_mask is not None:
        answer = m.tape.empty((), "bool", op="all")
        del answer
        if m.tape.holes:
            full_attention_mask = full_mask(input_ids, attention_mask)
    rotary_pos_emb = rotary_cache(m.rotary_pos_emb, m.embedding.word_embeddings.weight.dtype)
    rotary_pos_emb = ops.transpose(ops.unsqueeze(ops.slice_axis(rotary_pos_emb, 0, 0, length), 0), 0, 1)
    return encoder(m.encoder, inputs_embeds, full_attention_mask, rotary_pos_emb, checkpointing, presents)


def rows(logits: Sym) -> Sym:
    """Return [B, S, V] as [B * S, V]."""
    return ops.view(logits, (ops.rows(logits), logits.shape[-1]))


def causal_lm(
    m: Bound,
    input_ids: Sym,
    labels: Sym | None,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    past_key_values: Cache | None = None,
    use_cache: bool = False,
    logits_to_keep: Size = 0,
) -> tuple[Sym | None, Sym, Any]:
    """Mirror ChatGLMForConditionalGeneration.forward: loss and logits, both in the dtype of hidden states."""
    refuse_positions(position_ids)
    tape = m.tape
    if use_cache and labels is None:
        raise UnsupportedError("oomph plays ChatGLM in training only.", "Say --cache none, or read its weights' size.")
    if tape.kernel == "eager":
        tape.kernel = "flash"  # the class asks torch, which takes the first that can
    if checkpointing.kind != "none":
        checkpointing = Checkpointing("reentrant", 1)
    presents: list[KeyValue] | None = [] if use_cache else None
    hidden_states = model(m.transformer, input_ids, checkpointing, attention_mask, presents)
    if not yes(logits_to_keep == 0):
        length = hidden_states.shape[0]
        hidden_states = ops.slice_axis(hidden_states, 0, length - 1, length)
    lm_logits = m.transformer.output_layer(hidden_states)
    lm_logits = ops.contiguous(ops.transpose(lm_logits, 0, 1))
    loss = None
    if labels is not None:
        check_own(tape.loss)
        tape.scope = "loss"
        lm_logits = ops.cast(lm_logits, "fp32")
        length = labels.shape[1]
        shift_logits = ops.contiguous(ops.slice_axis(lm_logits, 1, 0, length - 1))
        shift_labels = ops.contiguous(ops.slice_axis(labels, 1, 1, length))
        loss = ops.cross_entropy(rows(shift_logits), ops.view(shift_labels, (ops.rows(shift_logits),)))
        lm_logits = ops.cast(lm_logits, hidden_states.dtype)
        loss = ops.cast(loss, hidden_states.dtype)
    return loss, lm_logits, presents
