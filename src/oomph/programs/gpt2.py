"""GPT2LMHeadModel.forward with its local variables. Source: transformers 5.23, models/gpt2/modeling_gpt2.py."""

from __future__ import annotations

from functools import partial

from oomph import ops
from oomph.programs.loss import causal_lm_loss
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym


def buffers(m: Bound) -> list[Sym]:
    """Return what is on the device beside the parameters: nothing."""
    return []


def attention(m: Bound, hidden_states: Sym, rate: float) -> Sym:
    """Mirror GPT2Attention.forward: one fused map, heads split off as views."""
    batch, length, hidden = hidden_states.shape
    shape = (batch, length, m.num_heads, m.head_dim)
    query_states, key_states, value_states = ops.split(m.c_attn(hidden_states), hidden, 3)
    key_states = ops.transpose(ops.view(key_states, shape), 1, 2)
    value_states = ops.transpose(ops.view(value_states, shape), 1, 2)
    query_states = ops.transpose(ops.view(query_states, shape), 1, 2)
    attn_output = ops.transpose(ops.scaled_dot_product_attention(query_states, key_states, value_states), 1, 2)
    attn_output = ops.view(attn_output, (batch, length, hidden))
    attn_output = m.c_proj(attn_output)
    attn_output = ops.dropout(attn_output, rate)
    return attn_output


def block(m: Bound, hidden_states: Sym, rate: float, position_ids: Sym) -> Sym:
    """Mirror GPT2Block.forward, which takes position_ids and has no use for them: a checkpoint keeps them alive."""
    residual = hidden_states
    hidden_states = m.ln_1(hidden_states)
    attn_output = attention(m.attn, hidden_states, rate)
    hidden_states = attn_output + residual
    residual = hidden_states
    hidden_states = m.ln_2(hidden_states)
    feed_forward_hidden_states = mlp(m.mlp, hidden_states, rate)
    hidden_states = residual + feed_forward_hidden_states
    return hidden_states


def mlp(m: Bound, hidden_states: Sym, rate: float) -> Sym:
    """Mirror GPT2MLP.forward."""
    hidden_states = m(hidden_states)
    hidden_states = ops.dropout(hidden_states, rate)
    return hidden_states


def causal_lm(
    m: Bound, input_ids: Sym, labels: Sym | None, checkpointing: Checkpointing, model_type: str, rate: float
) -> tuple[Sym | None, Sym]:
    """Mirror GPT2LMHeadModel.forward: loss and logits."""
    hidden_states = model(m.transformer, input_ids, checkpointing, rate)
    weight = m.lm_head.parts["weight"]
    logits = ops.linear(hidden_states, m.transformer.wte.weight if weight is None else weight)
    loss = None
    if labels is not None:
        loss = causal_lm_loss(logits, labels)
    return loss, logits


def model(
    m: Bound,
    input_ids: Sym,
    checkpointing: Checkpointing,
    rate: float,
    position_ids: Sym | None = None,
    inputs_embeds: Sym | None = None,
) -> Sym:
    """Mirror GPT2Model.forward. Locals die in the order of the frame, arguments first."""
    tape = m.tape
    inputs_embeds = m.wte(input_ids)
    position_ids = ops.unary(tape.empty((input_ids.shape[1],), "int64", op="arange"), "add")
    position_ids = ops.unsqueeze(position_ids, 0)
    position_embeds = m.wpe(position_ids)
    hidden_states: Sym = inputs_embeds + position_embeds
    ops.packed_sequence_test(tape, input_ids.shape[0], input_ids.shape[1])
    hidden_states = ops.dropout(hidden_states, rate)
    for index, layer in enumerate(m.h):
        tape.begin_layer(index, layer.path)
        if checkpointing.takes(index):
            call = partial(block, layer, rate=rate, position_ids=position_ids)
            hidden_states = checkpointing(tape, call, hidden_states)
            del call
        else:
            hidden_states = block(layer, hidden_states, rate, position_ids)
    tape.end_layers()
    hidden_states = m.ln_f(hidden_states)
    return hidden_states
