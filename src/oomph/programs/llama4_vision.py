"""The tower of Llama 4 with its local variables: patches unfolded, turned as complex numbers, and joined by an adapter.

Source: transformers 5.23, models/llama4/modeling_llama4.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from oomph import ops
from oomph.blocks.vision import Llama4Vision
from oomph.errors import UnsupportedError
from oomph.programs.internvl import pixel_shuffle
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import yes
from oomph.tape.sym import Sym


def buffers(m: Bound) -> list[Sym]:
    """Return the table of turns, complex [S, 1, D / 2]."""
    pairs = m.hidden_size // m.num_heads // 2
    table = m.tape.empty((m.num_positions, 1, pairs), "complex64", op="freqs_ci")
    m.parts["freqs_ci"] = table
    return [table]


def tower(m: Bound, pixel_values: Sym, checkpointing: Checkpointing) -> list[Any]:
    """Mirror Llama4VisionModel.forward: its output, the adapter's features [tiles, T, V], as pixel_values
    [tiles, C, P, P].
    """
    tape, block = m.tape, m.block
    if not isinstance(block, Llama4Vision) or not yes(block.merged == block.ffn_size):
        raise UnsupportedError("oomph cannot play images with this tower yet.", "Trace it: oomph trace.")
    tiles, hidden_dim = pixel_values.shape[0], block.hidden_size
    hidden_state = patch_embedding(m.patch_embedding.linear, pixel_values, block)
    if tape.inputs_train:
        hidden_state.requires_grad = True
    class_embedding = ops.expand(ops.view(m.class_embedding, (1, 1, hidden_dim)), (tiles, 1, hidden_dim))
    hidden_state = ops.cat([hidden_state, class_embedding], 1)
    hidden_state = ops.view(hidden_state, (tiles, 1, block.num_positions, hidden_dim))
    positional_embedding = ops.cast(m.positional_embedding_vlm, hidden_state.dtype)
    hidden_state = hidden_state + positional_embedding
    hidden_state = m.layernorm_pre(hidden_state)
    hidden_state = ops.view(hidden_state, (tiles, block.num_positions, hidden_dim))
    freqs_ci = m.freqs_ci
    output = encoder(m.model, hidden_state, checkpointing, freqs_ci, block.dropout)
    hidden_state = output
    hidden_state = m.layernorm_post(hidden_state)
    hidden_state = ops.slice_axis(hidden_state, 1, 0, block.num_positions - 1)
    hidden_state = adapter(m.vision_adapter.mlp, hidden_state, block)
    del class_embedding, positional_embedding, freqs_ci, output
    return [hidden_state]


def patch_embedding(linear: Bound, hidden_states: Sym, block: Llama4Vision) -> Sym:
    """Mirror Llama4UnfoldConvolution.forward."""
    hidden_states = ops.unfolded(hidden_states, block.patch_size)
    hidden_states = ops.permute(hidden_states, (0, 2, 1))
    hidden_states = linear(hidden_states)
    return hidden_states


def encoder(m: Bound, hidden_states: Sym, checkpointing: Checkpointing, freqs_ci: Sym, rate: float) -> Sym:
    """Mirror Llama4VisionEncoder.forward."""
    each = replace(checkpointing, every=1)
    for index, encoder_layer in enumerate(m.layers):
        # Called by names, at which a reentrant checkpoint does not look: nothing in it or before it trains then.
        run = partial(layer, encoder_layer, hidden_state=hidden_states, freqs_ci=freqs_ci, rate=rate)
        m.tape.scope = encoder_layer.path
        hidden_states = each(m.tape, run) if each.takes(index) else run()
        del run
    m.tape.scope = ""
    return hidden_states


def layer(m: Bound, hidden_state: Sym, *, freqs_ci: Sym, rate: float) -> Sym:
    """Mirror Llama4VisionEncoderLayer.forward."""
    residual = hidden_state
    hidden_state = m.input_layernorm(hidden_state)
    hidden_state, _attn_weights = attention(m.self_attn, hidden_state, freqs_ci, rate)
    hidden_state = residual + hidden_state
    residual = hidden_state
    hidden_state = m.post_attention_layernorm(hidden_state)
    hidden_state = m.mlp(hidden_state)
    hidden_state = residual + hidden_state
    return hidden_state


def attention(m: Bound, hidden_states: Sym, freqs_ci: Sym, rate: float) -> tuple[Sym, Sym | None]:
    """Mirror Llama4VisionAttention.forward."""
    batch, length, hidden = hidden_states.shape
    hidden_shape = (batch, length, m.num_heads, m.head_dim)
    query_states = ops.view(m.q_proj(hidden_states), hidden_shape)
    key_states = ops.view(m.k_proj(hidden_states), hidden_shape)
    value_states = ops.view(m.v_proj(hidden_states), hidden_shape)
    turns = ops.view(freqs_ci, (1, length, m.head_dim // 2))
    query_states, key_states = ops.apply_rotary_complex_heads(query_states, key_states, turns)
    del turns
    query_states = ops.transpose(query_states, 1, 2)
    key_states = ops.transpose(key_states, 1, 2)
    value_states = ops.transpose(value_states, 1, 2)
    attn_output, attn_weights = ops.attention_as_is(query_states, key_states, value_states, None, rate, causal=False)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    attn_output = m.o_proj(attn_output)
    return attn_output, attn_weights


def adapter(m: Bound, encoded_patches: Sym, block: Llama4Vision) -> Sym:
    """Mirror Llama4VisionPixelShuffleMLP.forward: patches [tiles, P · P, H] joined and mapped."""
    encoded_patches = shuffled(encoded_patches, block)
    return mlp(m, encoded_patches, block.adapter_dropout)


def mlp(m: Bound, hidden_states: Sym, rate: float) -> Sym:
    """Mirror Llama4VisionMLP2.forward."""
    hidden_states = m.fc1(hidden_states)
    hidden_states = ops.activate("gelu", hidden_states)
    hidden_states = ops.dropout(hidden_states, rate)
    return ops.activate("gelu", m.fc2(hidden_states))


def shuffled(input_tensor: Sym, block: Llama4Vision) -> Sym:
    """Mirror pixel_shuffle."""
    tiles, _, channels = input_tensor.shape
    side = block.image_size // block.patch_size
    input_tensor = ops.view(input_tensor, (tiles, side, side, channels))
    reshaped_tensor = pixel_shuffle(input_tensor, block.merge)
    _, rows, columns, joined = reshaped_tensor.shape
    return ops.view(reshaped_tensor, (tiles, rows * columns, joined))
