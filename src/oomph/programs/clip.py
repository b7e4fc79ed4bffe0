"""The towers of CLIP and SigLIP with their local variables.

Source: transformers 5.23, models/clip/modeling_clip.py, models/siglip/modeling_siglip.py.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from oomph import ops
from oomph.blocks.vision import ClipVision
from oomph.errors import UnsupportedError
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Size
from oomph.tape.sym import Sym

Outputs = list[
    "Sym | list[Sym] | None"
]  # a pooled state or features, the last hidden state: a ModelOutput, from its end


def embeddings(m: Bound, pixel_values: Sym, side: Size) -> Sym:
    """Mirror CLIPVisionEmbeddings.forward: patches of images [B, C, P, P] as [B, S, H], a class token before them."""
    tape, weight = m.tape, m.patch_embedding.weight
    batch, hidden = pixel_values.shape[0], weight.shape[0]
    patch_embeds = ops.conv_patches(ops.cast(pixel_values, weight.dtype), weight, m.patch_embedding.bias, (side, side))
    if tape.inputs_train:
        patch_embeds.requires_grad = True
    patch_embeds = ops.transpose(ops.view(patch_embeds, (batch, hidden, side * side)), 1, 2)
    found = patch_embeds
    if m.parts["class_embedding"] is not None:
        class_embeds = ops.for_each(m.class_embedding, batch)
        found = ops.cat([class_embeds, patch_embeds], 1)
    found = found + ops.embedding(m.position_embedding.weight, m.position_ids)
    return found


def layer(m: Bound, hidden_states: Sym, *, rate: float, maps_first: bool = True) -> Sym:
    """Mirror CLIPEncoderLayer.forward, or SiglipEncoderLayer's, of the same lines."""
    residual = hidden_states
    hidden_states = m.layer_norm1(hidden_states)
    hidden_states, _ = attention(m.self_attn, hidden_states, rate, maps_first)
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.layer_norm2(hidden_states)
    hidden_states = m.mlp(hidden_states)
    hidden_states = residual + hidden_states
    return hidden_states


def attention(m: Bound, hidden_states: Sym, rate: float, maps_first: bool) -> tuple[Sym, Sym | None]:
    """Mirror CLIPAttention.forward, which makes queries, keys and values before any is reshaped, or SigLIP's."""
    batch, length, hidden = hidden_states.shape
    shape = (batch, length, m.num_heads, m.head_dim)

    def heads(states: Sym) -> Sym:
        return ops.transpose(ops.view(states, shape), 1, 2)

    if maps_first:
        queries = m.q_proj(hidden_states)
        keys = m.k_proj(hidden_states)
        values = m.v_proj(hidden_states)
        queries, keys, values = heads(queries), heads(keys), heads(values)
    else:
        queries = heads(m.q_proj(hidden_states))
        keys = heads(m.k_proj(hidden_states))
        values = heads(m.v_proj(hidden_states))
    attn_output, attn_weights = ops.full_attention(queries, keys, values, rate)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, hidden)))
    attn_output = m.out_proj(attn_output)
    return attn_output, attn_weights


def encoder(
    m: Bound, hidden_states: Sym, checkpointing: Checkpointing, rate: float, captured: int, maps_first: bool
) -> tuple[Sym, Sym | None]:
    """Mirror CLIPEncoder.forward: the last hidden state, and that of layer `captured`, counted from the last (1); of
    none (0) None.
    """
    each = replace(checkpointing, every=1)
    layers = list(m.layers)
    kept = hidden_states if captured else None
    for index, encoder_layer in enumerate(layers):
        run = partial(layer, encoder_layer, rate=rate, maps_first=maps_first)
        m.tape.scope = encoder_layer.path
        hidden_states = each(m.tape, run, hidden_states) if each.takes(index) else run(hidden_states)
        if index == len(layers) - captured:
            kept = hidden_states
    m.tape.scope = ""
    return hidden_states, kept


def tower(m: Bound, pixel_values: Sym, checkpointing: Checkpointing, captured: int = 0) -> tuple[Outputs, Sym]:
    """Mirror CLIPVisionModel.forward or SiglipVisionModel.forward: its outputs, and the hidden state of a layer, of
    none (0) the last, normed.
    """
    block = m.block
    assert isinstance(block, ClipVision)
    if m.parts["head"] is not None or block.native_patches:
        raise UnsupportedError("oomph cannot play images with this tower's pooling head yet.", "Trace it: oomph trace.")
    hidden_states = embeddings(m.embeddings, pixel_values, block.image_size // block.patch_size)
    if not block.class_token:
        encoder_outputs, kept = encoder(m.encoder, hidden_states, checkpointing, block.dropout, captured, False)
        last_hidden_state = m.post_layernorm(encoder_outputs)
        del hidden_states, encoder_outputs
        return [kept, None, last_hidden_state], last_hidden_state if kept is None else kept
    hidden_states = m.pre_layrnorm(hidden_states)
    last_hidden_state, kept = encoder(m.encoder, hidden_states, checkpointing, block.dropout, captured, True)
    pooled_output = ops.select(last_hidden_state, 1)
    pooled_output = m.post_layernorm(pooled_output)
    return [kept, pooled_output, last_hidden_state], last_hidden_state if kept is None else kept
