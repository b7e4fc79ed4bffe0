"""The tower of Llama 3.2 Vision with its local variables: tiles of an image, and what is handed on of inner layers.

Source: transformers 5.23, models/mllama/modeling_mllama.py; the batch, image_processing_mllama.py.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from oomph import ops
from oomph.blocks.vision import MllamaVision
from oomph.tape.bound import Bound
from oomph.tape.sizes import Shapes, Size, product
from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

PATCHES_STEP = 8  # patches of a tile are padded to a multiple of it


def inputs_of_tiles(block: MllamaVision, job: TrainJob | InferJob) -> Shapes:
    """Return shapes and dtypes of what MllamaProcessor makes beside the tokens: every image is as many tiles as one can
    have at most, whatever its size.
    """
    batch, images, tiles = job.batch, job.images, block.max_tiles
    pixels = (block.num_channels, block.image_size, block.image_size)
    return {
        "pixel_values": ((batch, images, tiles, *pixels), "fp32"),
        "aspect_ratio_ids": ((batch, images), "int64"),
        "aspect_ratio_mask": ((batch, images, tiles), "int64"),
        "cross_attention_mask": ((batch, job.seq_len, images, tiles), "int64"),
    }


def tower(m: Bound, pixel_values: Sym, aspect_ratio_ids: Sym, aspect_ratio_mask: Sym) -> Sym:
    """Mirror MllamaVisionModel.forward: the last state and those of inner layers side by side [B, I, T, P, V]."""
    tape, block, weight = m.tape, m.block, m.patch_embedding.weight
    assert isinstance(block, MllamaVision)
    batch, media, tiles = pixel_values.shape[:3]
    images, num_patches, dim = batch * media, block.num_patches, block.hidden_size
    side = block.image_size // block.patch_size
    pixel_values = ops.view(pixel_values, (images * tiles, *pixel_values.shape[3:]))
    aspect_ratio_ids = ops.view(aspect_ratio_ids, (images, 1))
    patch_embeds = ops.conv_patches(ops.cast(pixel_values, weight.dtype), weight, None, (side, side))
    if tape.inputs_train:
        patch_embeds.requires_grad = True
    hidden_states = ops.transpose(ops.view(patch_embeds, (images * tiles, dim, side * side)), 1, 2)
    hidden_states = ops.view(hidden_states, (images, tiles, side * side, dim))
    hidden_states = _tile_positions(m.pre_tile_positional_embedding, hidden_states, aspect_ratio_ids)
    hidden_states = ops.view(hidden_states, (images * tiles, side * side, dim))
    hidden_states = _with_class(m.class_embedding, hidden_states)
    hidden_states = ops.view(hidden_states, (images, tiles, num_patches, dim))
    hidden_states = _positions(m.gated_positional_embedding, hidden_states, aspect_ratio_ids)
    hidden_states = m.layernorm_pre(hidden_states)
    padding = (PATCHES_STEP - num_patches % PATCHES_STEP) % PATCHES_STEP
    padded = num_patches + padding
    hidden_states = ops.pad_axis(hidden_states, 2, 0, padding)
    attention_mask = _mask(ops.view(aspect_ratio_mask, (images, tiles)), padded, weight.dtype)
    hidden_states = ops.view(hidden_states, (images, tiles * padded, dim))
    output = encoder(m.transformer, hidden_states, attention_mask)
    hidden_states = output[-1] if output else hidden_states
    hidden_states = m.layernorm_post(hidden_states)
    hidden_states = ops.view(hidden_states, (images, tiles, padded, dim))
    hidden_states = _tile_positions(m.post_tile_positional_embedding, hidden_states, aspect_ratio_ids)
    hidden_states = ops.view(hidden_states, (images, tiles * padded, dim))
    global_output = encoder(m.global_transformer, hidden_states, attention_mask)
    hidden_states = global_output[-1] if global_output else hidden_states
    hidden_states = ops.view(hidden_states, (images, tiles, padded, dim))
    hidden_states = ops.part(hidden_states, 0, num_patches, 2)
    hidden_states = ops.view(hidden_states, (batch, media, tiles, num_patches, dim))
    all_intermediate_hidden_states = [output[operator.index(at)] for at in block.taken]
    intermediate_hidden_states = ops.stack_last(all_intermediate_hidden_states)
    width = dim * len(block.taken)
    intermediate_hidden_states = ops.view(intermediate_hidden_states, (images, tiles, padded, width))
    intermediate_hidden_states = ops.part(intermediate_hidden_states, 0, num_patches, 2)
    intermediate_hidden_states = ops.view(intermediate_hidden_states, (batch, media, tiles, num_patches, width))
    hidden_states = ops.cat([hidden_states, intermediate_hidden_states], -1)
    del pixel_values, aspect_ratio_ids, patch_embeds, attention_mask
    del global_output, all_intermediate_hidden_states, intermediate_hidden_states
    del output  # what a comprehension reads outlives the others
    return hidden_states


def encoder(m: Bound, hidden_states: Sym, attention_mask: Sym) -> list[Sym]:
    """Mirror MllamaVisionEncoder.forward, which checkpoints nothing: the states of all layers, the last one last."""
    encoder_states: list[Sym] = []
    for each in m.layers:
        m.tape.scope = each.path
        hidden_states = layer(each, hidden_states, attention_mask)
        encoder_states.append(hidden_states)
    m.tape.scope = ""
    return encoder_states


def layer(m: Bound, hidden_states: Sym, attention_mask: Sym) -> Sym:
    """Mirror MllamaVisionEncoderLayer.forward."""
    residual = hidden_states
    hidden_states = m.input_layernorm(hidden_states)
    hidden_states, _ = attention(m.self_attn, hidden_states, attention_mask)
    if m.parts["gate_attn"] is not None:
        hidden_states = ops.tanh(m.gate_attn) * hidden_states
    hidden_states = residual + hidden_states
    residual = hidden_states
    hidden_states = m.post_attention_layernorm(hidden_states)
    hidden_states = m.mlp(hidden_states)
    if m.parts["gate_ffn"] is not None:
        hidden_states = ops.tanh(m.gate_ffn) * hidden_states
    hidden_states = residual + hidden_states
    return hidden_states


def attention(m: Bound, hidden_states: Sym, attention_mask: Sym) -> tuple[Sym, Sym | None]:
    """Mirror MllamaVisionAttention.forward."""
    batch, length, width = hidden_states.shape
    query = m.q_proj(hidden_states)
    key = m.k_proj(hidden_states)
    value = m.v_proj(hidden_states)
    shape = (batch, length, m.num_heads, m.head_dim)
    query = ops.transpose(ops.view(query, shape), 1, 2)
    key = ops.transpose(ops.view(key, shape), 1, 2)
    value = ops.transpose(ops.view(value, shape), 1, 2)
    attn_output, attn_weights = ops.attention(query, key, value, attention_mask, 0.0)
    attn_output = ops.contiguous(ops.view(attn_output, (batch, length, width)))
    attn_output = m.o_proj(attn_output)
    return attn_output, attn_weights


def _tile_positions(m: Bound, hidden_states: Sym, aspect_ratio_ids: Sym) -> Sym:
    """Mirror MllamaPrecomputedAspectRatioEmbedding.forward."""
    embeddings = ops.embedding(m.embedding.weight, aspect_ratio_ids)
    images, tiles, _, dim = hidden_states.shape
    embeddings = ops.view(embeddings, (images, tiles, 1, dim))
    embeddings = embeddings * ops.tanh(m.gate)
    hidden_states = hidden_states + embeddings
    return hidden_states


def _with_class(class_embedding: Sym, hidden_states: Sym) -> Sym:
    """Mirror apply_class_embedding."""
    class_embedding = ops.for_each(class_embedding, hidden_states.shape[0])
    hidden_states = ops.cat([class_embedding, hidden_states], 1)
    return hidden_states


def _positions(m: Bound, hidden_states: Sym, aspect_ratio_ids: Sym) -> Sym:
    """Mirror MllamaPrecomputedPositionEmbedding.forward."""
    gated_position_embedding = ops.rsub(ops.tanh(m.gate)) * m.embedding
    shape = hidden_states.shape
    hidden_states = hidden_states + ops.view(gated_position_embedding, (1, 1, *shape[2:]))
    tile_position_embedding = ops.embedding(m.tile_embedding.weight, aspect_ratio_ids)
    tile_position_embedding = ops.view(tile_position_embedding, shape)
    gated_tile_position_embedding = ops.tanh(m.gate) * tile_position_embedding
    hidden_states = hidden_states + gated_tile_position_embedding
    return hidden_states


def _mask(aspect_ratio_mask: Sym, target_length: Size, dtype: str) -> Sym:
    """Mirror _prepare_aspect_ratio_attention_mask: [I, 1, T·P, T·P], which patches of an image's tiles see nothing."""
    images, tiles = aspect_ratio_mask.shape
    attention_mask = ops.cast(ops.view(aspect_ratio_mask, (images, tiles, 1, 1)), dtype)
    attention_mask = attention_mask.tape.empty((images, tiles, target_length, 1), dtype, op="repeat")
    if attention_mask.tape.on != "gpu":  # which is told a number that is written by indexing
        attention_mask.tape.empty((), dtype, op="lift_fresh")
    attention_mask = ops.unary(attention_mask, "rsub")
    attention_mask = ops.view(attention_mask, (images, tiles * target_length, 1))
    attention_mask = ops.matmul(attention_mask, ops.transpose(attention_mask, 1, 2)) * 1.0
    attention_mask = ops.unsqueeze(attention_mask, 1)
    return attention_mask


def cross_mask(cross_attention_mask: Sym, num_vision_tokens: Size, dtype: str) -> tuple[Sym, Sym]:
    """Mirror _prepare_cross_attention_mask: the mask [B, 1, S, I·T·P] of which tokens see which patches, and [B, 1, S,
    1] of those that see any.
    """
    batch, length = cross_attention_mask.shape[:2]
    seen = product(cross_attention_mask.shape[2:]) * num_vision_tokens
    cross_attention_mask = ops.repeat_each(cross_attention_mask, 3, num_vision_tokens)
    cross_attention_mask = ops.view(cross_attention_mask, (batch, 1, length, seen))
    tape, shape = cross_attention_mask.tape, cross_attention_mask.shape
    inverted_cross_attn_mask = ops.cast(tape.empty(shape, "fp32", op="rsub"), dtype)
    cross_attention_mask = ops.masked_fill(inverted_cross_attn_mask, tape.empty(shape, "bool", op="_to_copy"))
    differs = tape.empty(shape, "bool", op="ne")
    found = tape.empty(shape[:-1], "bool", op="any")
    del differs
    full_text_row_masked_out_mask = ops.unsqueeze(ops.cast(found, dtype), 3)
    del found
    return cross_attention_mask, full_text_row_masked_out_mask
