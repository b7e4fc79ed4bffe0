"""GPT2LMHeadModel.forward with its local variables. Source: transformers 5.23, models/gpt2/modeling_gpt2.py."""

from __future__ import annotations

from functools import partial

from oomph import ops
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frame import check_positions, language_model
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym


def buffers(m: Bound) -> list[Sym]:
    """Return what is on the device beside the parameters: nothing."""
    return []


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return the window of every layer: attention is full."""
    return [None for _ in m.transformer.h]


def attention(
    m: Bound, hidden_states: Sym, past_key_values: Cache | None, attention_mask: Sym | None, index: int
) -> tuple[Sym, Sym | None]:
    """Mirror GPT2Attention.forward: one fused map, heads split off as views."""
    batch, length, hidden = hidden_states.shape
    shape = (batch, length, m.num_heads, m.head_dim)
    query_states, key_states, value_states = ops.split(m.c_attn(hidden_states), hidden, 3)
    key_states = ops.transpose(ops.view(key_states, shape), 1, 2)
    value_states = ops.transpose(ops.view(value_states, shape), 1, 2)
    query_states = ops.transpose(ops.view(query_states, shape), 1, 2)
    if past_key_values is not None:
        key_states, value_states = past_key_values.update(key_states, value_states, index)
    attn_output, attn_weights = ops.gpt2_attention(query_states, key_states, value_states, attention_mask, m.dropout)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    attn_output = m.c_proj(attn_output)
    attn_output = m.resid_dropout(attn_output)
    return attn_output, attn_weights


def block(
    m: Bound,
    hidden_states: Sym,
    past_key_values: Cache | None = None,
    attention_mask: Sym | None = None,
    index: int = 0,
    position_ids: Sym | None = None,
) -> Sym:
    """Mirror GPT2Block.forward, which takes position_ids and has no use for them: a checkpoint keeps them alive."""
    residual = hidden_states
    hidden_states = m.ln_1(hidden_states)
    attn_output, _ = attention(m.attn, hidden_states, past_key_values, attention_mask, index)
    hidden_states = attn_output + residual
    residual = hidden_states
    hidden_states = m.ln_2(hidden_states)
    feed_forward_hidden_states = m.mlp(hidden_states)
    hidden_states = residual + feed_forward_hidden_states
    return hidden_states


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    past_key_values: Cache | None = None,
    attention_mask: Sym | None = None,
    position_ids: Sym | None = None,
    inputs_embeds: Sym | None = None,
    use_cache: bool = False,
) -> tuple[Sym, Cache | None]:
    """Mirror GPT2Model.forward. Locals die in the order of the frame, arguments first."""
    tape = m.tape
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(tape, [None] * len(m.h.stacked))
    check_positions(m.wpe, input_ids.shape[1])
    inputs_embeds = m.wte(input_ids)
    packed = position_ids
    if position_ids is None:
        position_ids = ops.unary(tape.empty((input_ids.shape[1],), "int64", op="arange"), "add")
        position_ids = ops.unsqueeze(position_ids, 0)
    position_embeds = m.wpe(position_ids)
    hidden_states: Sym = inputs_embeds + position_embeds
    causal_mask = ops.causal_mask(inputs_embeds, attention_mask, past_key_values, packed=packed)
    hidden_states = m.drop(hidden_states)
    for index, layer in enumerate(m.h):
        tape.begin_layer(index, layer.path)
        if checkpointing.takes(index):
            call = partial(block, layer, position_ids=position_ids)
            hidden_states = checkpointing(tape, call, hidden_states, None, causal_mask)
            del call
        else:
            hidden_states = block(layer, hidden_states, past_key_values, causal_mask, index, position_ids)
    tape.end_layers()
    hidden_states = m.ln_f(hidden_states)
    return hidden_states, past_key_values


causal_lm = language_model(model, "transformer", "wte")  # GPT2LMHeadModel.forward
