"""The tower of InternVL with its local variables.

Source: transformers 5.23, models/internvl/modeling_internvl.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from oomph import ops
from oomph.blocks.vision import InternVision
from oomph.errors import UnsupportedError
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sym import Sym


def tower(m: Bound, pixel_values: Sym, checkpointing: Checkpointing, captured: int) -> tuple[list[Any], Sym]:
    """Mirror InternVLVisionModel.forward: its outputs, which die from the end, and the hidden state of a layer, counted
    from the last (1), which is normed where there is a norm.
    """
    block = m.block
    if not isinstance(block, InternVision) or block.other_dropout:
        raise UnsupportedError("oomph cannot play images with this tower yet.", "Trace it: oomph trace.")
    kept = hidden_states = embedding_output = embeddings(m.embeddings, pixel_values)
    each, layers = replace(checkpointing, every=1), list(m.encoder.layer)
    for index, layer_module in enumerate(layers):
        run = partial(layer, layer_module, rate=block.dropout)
        m.tape.scope = layer_module.path
        hidden_states = each(m.tape, run, hidden_states) if each.takes(index) else run(hidden_states)
        if index == len(layers) - captured:
            kept = hidden_states
    m.tape.scope = ""
    sequence_output = hidden_states if m.layernorm is None else m.layernorm(hidden_states)
    del embedding_output, hidden_states
    return [None, kept, sequence_output], sequence_output if captured == 1 else kept


def embeddings(m: Bound, pixel_values: Sym) -> Sym:
    """Mirror InternVLVisionEmbeddings.forward: a class token and patches of images [B, C, P, P] as [B, S, H]."""
    projection, (batch, _, height, width) = m.patch_embeddings.projection, pixel_values.shape
    weight = projection.weight
    hidden, _, down, across = weight.shape
    sides = (height // down, width // across)
    found: Sym = ops.conv_patches(ops.cast(pixel_values, weight.dtype), weight, projection.bias, sides)
    found = ops.transpose(ops.view(found, (batch, hidden, sides[0] * sides[1])), 1, 2)
    if m.tape.inputs_train:
        found.requires_grad = True
    cls_tokens = ops.expand(m.cls_token, (batch, 1, hidden))
    found = ops.cat((cls_tokens, found), 1)
    if m.position_embeddings is not None:
        found = found + m.position_embeddings
    return found


def layer(m: Bound, hidden_states: Sym, *, rate: float) -> Sym:
    """Mirror InternVLVisionLayer.forward."""
    attention_output, _ = attention(m.attention, m.layernorm_before(hidden_states), rate)
    attention_output = m.lambda_1 * attention_output
    hidden_states = attention_output + hidden_states
    layer_output: Sym = m.layernorm_after(hidden_states)
    layer_output = m.mlp(layer_output)
    layer_output = m.lambda_2 * layer_output
    layer_output = layer_output + hidden_states
    return layer_output


def attention(m: Bound, hidden_states: Sym, rate: float) -> tuple[Sym, Sym | None]:
    """Mirror InternVLVisionAttention.__call__, which holds what it is given."""
    return _attention(m, hidden_states, rate)


def _attention(m: Bound, hidden_states: Sym, rate: float) -> tuple[Sym, Sym | None]:
    batch_size, seq_len, hidden = hidden_states.shape
    shape = (batch_size, seq_len, m.num_heads, m.head_dim)
    query_states = m.q_proj(hidden_states)
    key_states = m.k_proj(hidden_states)
    value_states = m.v_proj(hidden_states)
    if m.q_norm is not None:
        query_states = m.parts["q_norm"](query_states)
        key_states = m.parts["k_norm"](key_states)
    query_states = ops.transpose(ops.view(query_states, shape), 1, 2)
    key_states = ops.transpose(ops.view(key_states, shape), 1, 2)
    value_states = ops.transpose(ops.view(value_states, shape), 1, 2)
    with m.tape.in_tower():
        attn_output, attn_weights = ops.attention_as_is(
            query_states, key_states, value_states, None, rate, causal=False
        )
    attn_output = ops.view(attn_output, (batch_size, seq_len, hidden))
    output = m.projection_layer(attn_output)
    return output, attn_weights
