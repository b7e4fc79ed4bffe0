"""GPTNeoXForCausalLM.forward with its local variables. Source: transformers 5.23, models/gpt_neox/modeling_gpt_neox.py.

Attention and MLP stand side by side or, in a Module that is not parallel, one behind the other.
"""

from __future__ import annotations

from oomph import ops
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import call, counted_positions, full_attention, headless, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym

sliding_windows = full_attention("gpt_neox.layers")


def buffers(m: Bound) -> list[Sym]:
    """Return inv_freq and original_inv_freq."""
    rotary_dim = next(iter(m.gpt_neox.layers)).attention.rotary_dim
    return ops.rotary_buffers(m.tape, rotary_dim)


def attention(
    m: Bound,
    hidden_states: Sym,
    attention_mask: Sym | None,
    layer_past: Cache | None,
    position_embeddings: tuple[Sym, Sym],
    index: int,
) -> tuple[Sym, Sym | None]:
    """Mirror GPTNeoXAttention.forward: q, k and v of each head side by side."""
    batch, length = hidden_states.shape[:2]
    shape = (batch, length, m.num_heads, 3 * m.head_dim)
    qkv = ops.transpose(ops.view(m.query_key_value(hidden_states), shape), 1, 2)
    query_states, key_states, value_states = ops.split(qkv, m.head_dim, 3)
    cos, sin = position_embeddings
    query_states, key_states = ops.apply_partial_rotary(query_states, key_states, cos, sin)
    if layer_past is not None:
        key_states, value_states = layer_past.update(key_states, value_states, index)
    attn_output, attn_weights = ops.attention(query_states, key_states, value_states, attention_mask, m.dropout)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, m.num_heads * m.head_dim)))
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
    """Mirror GPTNeoXLayer.forward."""
    normed = m.input_layernorm(hidden_states)  # a module's call holds its arguments to its end
    attn_output, _ = attention(m.attention, normed, attention_mask, past_key_values, position_embeddings, index)
    del normed
    attn_output = m.post_attention_dropout(attn_output)
    if m.parallel:
        mlp_output = m.mlp(m.post_attention_layernorm(hidden_states))
        mlp_output = m.post_mlp_dropout(mlp_output)
        hidden_states = mlp_output + attn_output + hidden_states
    else:
        attn_output = attn_output + hidden_states
        mlp_output = m.mlp(m.post_attention_layernorm(attn_output))
        mlp_output = m.post_mlp_dropout(mlp_output)
        hidden_states = mlp_output + attn_output
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
    """Mirror GPTNeoXModel.forward."""
    inputs_embeds = m.embed_in(input_ids)
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, [None] * len(m.layers.stacked))
    packed = position_ids
    if position_ids is None:
        position_ids = counted_positions(input_ids)
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed)
    hidden_states = m.emb_dropout(inputs_embeds)
    position_embeddings = ops.rotary_tables(hidden_states, position_ids, next(iter(m.layers)).attention.rotary_dim)
    for index, each in enumerate(m.layers):
        hidden_states = call(
            each, index, layer, checkpointing, past_key_values, hidden_states,
            attention_mask=causal_mask, position_ids=position_ids, position_embeddings=position_embeddings,
        )  # fmt: skip
    m.tape.end_layers()
    hidden_states = m.final_layer_norm(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "gpt_neox", "embed_in", "embed_out")
backbone = headless(model, "gpt_neox")
