"""MiniMaxForCausalLM.forward with its local variables: lightning attention in some layers, experts in all.

Lightning attention goes block by block over the tokens, with a matrix of keys by values from one to the next. Source:
transformers 5.23, models/minimax/modeling_minimax.py.
"""

from __future__ import annotations

from typing import Any

from oomph import ops
from oomph.programs.cache import LINEAR, Cache, LinearAttentionLayer, dynamic_cache
from oomph.programs.causal_conv import masked
from oomph.programs.frame import call, counted_positions, language_model
from oomph.programs.layers import feed_forward
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size, settled
from oomph.tape.sym import Sym

Tables = tuple[Sym, Sym]
QKV = 3  # queries, keys and values of one map


def buffers(m: Bound) -> list[Sym]:
    """Return the frequencies of the rotary embedding, which are kept twice; decays are stored."""
    return ops.rotary_buffers(m.tape, _rotary_size(m.model))


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return what each layer keeps of its past: keys and values, or a state."""
    return kinds_of(m.model)


def kinds_of(m: Bound) -> list[Size | None]:
    """Return which layers of a model are linear, and the windows of the others."""
    return [LINEAR if "output_gate" in layer.self_attn.parts else layer.self_attn.sliding_window for layer in m.layers]


def _rotary_size(m: Bound) -> Size:
    """Return the width of the rotary tables."""
    size: Size = next(iter(m.layers)).self_attn.head_dim
    return size


def lightning(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    past_key_values: Cache | None,
    index: int,
) -> tuple[Sym, Sym]:
    """Mirror MiniMaxLightningAttention.forward: the output, and the state after the last token [B, N, D, D]."""
    batch_size, seq_len, _ = hidden_states.shape
    heads, size = m.num_heads, m.head_dim
    qkv_states: Sym = ops.activate(m.activation, m.qkv_proj(hidden_states))
    qkv_states = masked(qkv_states, attention_mask)
    qkv_states = ops.view(qkv_states, (batch_size, seq_len, heads, QKV * size))
    query_states, key_states, value_states = ops.split(qkv_states, size, QKV)
    query_states = ops.transpose(query_states, 1, 2)
    key_states = ops.transpose(key_states, 1, 2)
    value_states = ops.transpose(value_states, 1, 2)
    attn_weights_inter: Any = None if past_key_values is None else past_key_values.recurrent_state(index)
    attn_output: Any = []
    if attn_weights_inter is None:
        shape = (batch_size, heads, size, size)
        attn_weights_inter = m.tape.empty(shape, value_states.dtype, op="zeros")
        length, block = settled(seq_len), settled(m.block_size)
        for start_idx in range(0, length, block):
            end_idx = min(start_idx + block, length)
            current_query_states = ops.part(query_states, start_idx, end_idx, 2)
            current_key_states = ops.part(key_states, start_idx, end_idx, 2)
            current_value_states = ops.part(value_states, start_idx, end_idx, 2)
            current = end_idx - start_idx
            current_query_decay = ops.slice_axis(m.query_decay, 1, 0, current)
            current_key_decay = ops.slice_axis(m.key_decay, 1, block - current, block)
            current_diagonal_decay = ops.slice_axis(ops.slice_axis(m.diagonal_decay, 2, 0, current), 3, 0, current)
            block_decay = ops.unary(ops.unary(ops.unary(m.slope_rate, "neg"), "mul"), "exp")
            attn_weights_intra = ops.matmul(current_query_states, ops.transpose(current_key_states, 2, 3))
            attn_output_intra = product(attn_weights_intra * current_diagonal_decay, current_value_states)
            attn_output_inter = product(current_query_states * current_query_decay, attn_weights_inter)
            current_attn_output = attn_output_inter + attn_output_intra
            attn_output.append(current_attn_output)
            next_attn_weights_inter = product(
                ops.transpose(current_key_states * current_key_decay, 2, 3), current_value_states
            )  # fmt: skip
            attn_weights_inter = attn_weights_inter * block_decay + next_attn_weights_inter
    else:
        ratio = ops.unary(ops.unary(m.slope_rate, "neg"), "exp")
        for i in range(settled(seq_len)):
            current_query_states = ops.part(query_states, i, i + 1, 2)
            current_key_states = ops.part(key_states, i, i + 1, 2)
            current_value_states = ops.part(value_states, i, i + 1, 2)
            current_attn_weights_inter = ops.matmul(ops.transpose(current_key_states, 2, 3), current_value_states)
            attn_weights_inter = ratio * attn_weights_inter + current_attn_weights_inter
            current_attn_output = ops.matmul(current_query_states, attn_weights_inter)
            attn_output.append(current_attn_output)
    attn_output = ops.cat(attn_output, 2)
    attn_output = ops.transpose(attn_output, 1, 2)
    attn_output = ops.view(attn_output, (batch_size, seq_len, heads * size))
    attn_output = m.norm(attn_output)
    attn_output = ops.sigmoid(m.output_gate(hidden_states)) * attn_output
    attn_output = m.out_proj(attn_output)
    if past_key_values is not None:
        keep(past_key_values, index, attn_weights_inter)
    return attn_output, attn_weights_inter


def product(x: Sym, y: Sym) -> Sym:
    """Mirror torch.matmul of something made for it: the call holds its arguments, whatever autocast makes of them."""
    return ops.matmul(x, y)


def keep(past_key_values: Cache, index: int, state: Sym) -> None:
    """Mirror MiniMaxCache.set_linear_cache, which keeps the tensor itself."""
    layer = past_key_values.layers[index]
    if isinstance(layer, LinearAttentionLayer):
        layer.recurrent_states = state.tape.note(state, "kv cache")


def block(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    position_embeddings: Tables,
    position_ids: Sym,
    past_key_values: Cache | None = None,
    index: int = 0,
) -> Sym:
    """Mirror MiniMaxDecoderLayer.forward."""
    hidden_states = m.input_layernorm(hidden_states)
    residual = hidden_states
    if "output_gate" in m.self_attn.parts:
        hidden_states, _ = lightning(m.self_attn, hidden_states, attention_mask, past_key_values, index)
    else:
        hidden_states, _ = m.self_attn(hidden_states, position_embeddings, attention_mask, past_key_values, index)
    hidden_states = residual * 1.0 + hidden_states * 1.0
    hidden_states = m.post_attention_layernorm(hidden_states)
    residual = hidden_states
    hidden_states = feed_forward(m)(hidden_states)
    hidden_states = residual * 1.0 + hidden_states * 1.0
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
    """Mirror MiniMaxModel.forward."""
    kinds = kinds_of(m)
    window = next((kind for kind in kinds if kind is not LINEAR), None)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, [kind if kind is LINEAR else None for kind in kinds])
    inputs_embeds = m.embed_tokens(input_ids)
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask_mapping: dict[Size, Sym | None] = {}
    mask_kwargs = {"inputs_embeds": inputs_embeds, "position_ids": position_ids}  # noqa: F841  lives to the end
    causal_mask_mapping |= {
        window: ops.causal_mask(inputs_embeds, attention_mask, past_key_values, window, packed),
        LINEAR: ops.recurrent_mask(inputs_embeds, attention_mask),
    }
    hidden_states: Sym = inputs_embeds
    position_embeddings = ops.rotary_tables(hidden_states, position_ids, _rotary_size(m))
    for index, decoder_layer in enumerate(m.layers):
        hidden_states = call(
            decoder_layer, index, block, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask_mapping[kinds[index]], position_embeddings=position_embeddings,
            position_ids=position_ids,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.norm(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "model", "embed_tokens")
