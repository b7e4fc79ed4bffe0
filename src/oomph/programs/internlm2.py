"""InternLM2ForCausalLM.forward with its local variables: one map makes queries, keys and values, group by group.

Each layer keeps tables of cos and sin for all positions. `attention` eager is the class's default, any other its
flash_attention_2; layers are checkpointed re-entrantly, all of them. Source: the code of the repositories
(internlm/internlm2-chat-7b, modeling_internlm2.py of early 2024; that of late 2024 has caches of transformers' own).
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.losses.labels import shifted
from oomph.losses.own import check_own
from oomph.ops.attention import repeat_kv
from oomph.ops.kernel_choice import Call
from oomph.ops.sdpa import scaled_dot_product_attention
from oomph.programs.baichuan import decoder_mask
from oomph.programs.cache import Cache
from oomph.programs.frame import call, check_length, full_attention
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, yes
from oomph.tape.sym import Sym

sliding_windows = full_attention("model.layers")
KeyValue = tuple[Sym, Sym]


def buffers(m: Bound) -> list[Sym]:
    """Return what is on the device beside the parameters: frequencies, cos and sin of all positions, in each layer."""
    attention, dtype = next(iter(m.model.layers)).attention, m.model.tok_embeddings.weight.dtype
    size, table = attention.head_dim, (attention.positions, attention.head_dim)
    found = []
    for layer in m.model.layers:
        found.append(m.tape.empty((size // 2,), "fp32", op="inv_freq"))
        for name in ("cos_cached", "sin_cached"):
            made = layer.attention.parts[name] = m.tape.empty(table, dtype, op=name)
            found.append(made)
    return found


def apply_rotary_pos_emb(q: Sym, k: Sym, cos: Sym, sin: Sym, position_ids: Sym) -> tuple[Sym, Sym]:
    """Mirror apply_rotary_pos_emb: rows of the tables [S, D] are picked for each position."""
    shape = (*position_ids.shape, q.shape[-1])
    cos = ops.unsqueeze(q.tape.empty(shape, cos.dtype, op="index"), 1)
    sin = ops.unsqueeze(q.tape.empty(shape, sin.dtype, op="index"), 1)
    q_embed = (q * cos) + (ops.rotate_half(q) * sin)
    k_embed = (k * cos) + (ops.rotate_half(k) * sin)
    return q_embed, k_embed


def tables(m: Bound, value_states: Sym) -> KeyValue:
    """Mirror InternLM2RotaryEmbedding.forward: rows of the layer's tables, cast if values have another dtype."""
    length, dtype = value_states.shape[2], value_states.dtype
    cos = ops.cast(ops.slice_axis(m.cos_cached, 0, 0, length), dtype)
    sin = ops.cast(ops.slice_axis(m.sin_cached, 0, 0, length), dtype)
    return cos, sin


def own_attention(query_states: Sym, key_states: Sym, value_states: Sym, attention_mask: Sym) -> tuple[Sym, Sym]:
    """Mirror InternLM2Attention.forward between its maps: scores are divided and masked."""
    attn_weights = ops.matmul(query_states, ops.transpose(key_states, 2, 3)) / 1.0
    attn_weights = attn_weights + attention_mask
    attn_weights = ops.cast(ops.softmax_in_fp32(attn_weights), query_states.dtype)
    attn_output = ops.matmul(attn_weights, value_states)
    return ops.contiguous(ops.transpose(attn_output, 1, 2)), attn_weights


def attention(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_ids: Sym,
    presents: list[KeyValue] | None,
) -> Sym:
    """Mirror InternLM2Attention.forward, or InternLM2FlashAttention2's of batches without padding."""
    bsz, q_len, hidden = hidden_states.shape
    heads, groups, size = m.num_heads, m.num_kv_heads, m.head_dim
    shared = heads // groups
    qkv_states = m.wqkv(hidden_states)
    qkv_states = ops.view(qkv_states, (bsz, q_len, groups, shared + 2, size))
    query_states = ops.slice_axis(qkv_states, 3, 0, shared)
    query_states = ops.view(query_states, (bsz, q_len, heads, size))
    key_states = ops.select(qkv_states, 3)
    value_states = ops.select(qkv_states, 3)
    query_states = ops.transpose(query_states, 1, 2)
    key_states = ops.transpose(key_states, 1, 2)
    value_states = ops.transpose(value_states, 1, 2)
    cos, sin = tables(m, value_states)
    query_states, key_states = apply_rotary_pos_emb(query_states, key_states, cos, sin, position_ids)
    if presents is not None:
        presents.append((key_states, value_states))
    attn_weights = None
    if attention_mask is not None:
        key_states = repeat_kv(key_states, shared)
        value_states = repeat_kv(value_states, shared)
        attn_output, attn_weights = own_attention(query_states, key_states, value_states, attention_mask)
    else:
        grouped = Call(is_causal=not yes(q_len == 1), grouped=not yes(heads == groups))
        attn_output = ops.transpose(scaled_dot_product_attention(query_states, key_states, value_states, grouped), 1, 2)
    attn_output = ops.contiguous(ops.view(attn_output, (bsz, q_len, hidden)))
    attn_output = m.wo(attn_output)
    del attn_weights
    projected: Sym = attn_output
    return projected


def layer(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_ids: Sym,
    past_key_values: list[KeyValue] | None = None,
    index: int = 0,
) -> tuple[Sym, None]:
    """Mirror InternLM2DecoderLayer.forward; `past_key_values`, if any, takes what the layer would cache."""
    residual = hidden_states
    hidden_states = m.attention_norm(hidden_states)
    hidden_states = attention(m.attention, hidden_states, attention_mask, position_ids, past_key_values)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.ffn_norm(hidden_states)
    hidden_states = m.feed_forward(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states, None


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    presents: list[KeyValue] | None,
) -> Sym:
    """Mirror InternLM2Model.forward: what the last layer returned is held to the end."""
    tape, length = m.tape, input_ids.shape[1]
    check_length(next(iter(m.layers)).attention.positions, length)
    if position_ids is None:
        position_ids = ops.unsqueeze(tape.empty((length,), "int64", op="arange"), 0)
    inputs_embeds = m.tok_embeddings(input_ids)
    if tape.kernel == "eager":
        ones = None if attention_mask is not None else tape.empty(input_ids.shape, "bool", op="ones")
        attention_mask = decoder_mask(inputs_embeds, attention_mask, scalar=True)
        del ones
    elif tape.holes:
        raise UnsupportedError("oomph cannot play InternLM2's flash attention on padded batches yet.", "Say eager.")
    else:
        attention_mask = None
    hidden_states: Sym = inputs_embeds
    caches: Any = presents if checkpointing.kind == "none" else None
    for index, each in enumerate(m.layers):
        layer_outputs = call(each, index, layer, checkpointing, caches, hidden_states, attention_mask, position_ids)
        hidden_states = layer_outputs[0]
    tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states


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
    """Mirror InternLM2ForCausalLM.forward: loss and fp32 logits."""
    tape = m.tape
    if use_cache and labels is None:
        raise UnsupportedError("oomph plays InternLM2 in training only.", "Say --cache none.")
    if checkpointing.kind != "none":
        checkpointing = Checkpointing("reentrant", 1)
    presents: list[KeyValue] | None = [] if use_cache else None
    hidden_states = model(m.model, input_ids, checkpointing, attention_mask, position_ids, presents)
    logits = ops.cast(m.output(hidden_states), "fp32")
    loss = None
    if labels is not None:
        check_own(tape.loss)
        tape.scope = "loss"
        shift_logits, shift_labels = shifted(logits, labels)
        loss = ops.cross_entropy(shift_logits, shift_labels)
    return loss, logits, presents
