"""Idefics3ForConditionalGeneration.forward and SmolVLM's: tiles of images through a SigLIP, and a decoder.

Source: transformers 5.23, models/idefics3/modeling_idefics3.py, models/smolvlm/modeling_smolvlm.py.
"""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.ops.fused_head import take_where
from oomph.programs import clip, llama
from oomph.programs.cache import Cache, dynamic_cache
from oomph.programs.frames import FRAMES
from oomph.programs.towers import HEAD, Images, check_room
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape
from oomph.tiles import splits

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

TEXT_MODEL = "model.text_model."  # how the paths of the language model's parts begin


def buffers(m: Bound) -> list[Sym]:
    """Return the language model's buffers: the tower has none."""
    return llama.model_buffers(m.model.text_model)


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return the window of every layer, None where attention is full."""
    return llama.windows_of(m.model.text_model)


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: of text alone the language model's."""
    if m.tape.images:
        return parameters
    return [one for one in parameters if one.made_for.startswith((TEXT_MODEL, HEAD))]


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has of images: the tiles of a sequence, and which of their pixels are an image's."""
    block = m.model.vision_model.block
    side = operator.index(block.image_size)
    per_row = job.images * splits(job.image_size, side)
    return {
        "pixel_values": ((job.batch, per_row, block.num_channels, side, side), "fp32"),
        "pixel_attention_mask": ((job.batch, per_row, side, side), "int64"),
    }


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
    images: Images | None = None,
) -> tuple[Any, ...]:
    """Mirror Idefics3ForConditionalGeneration.forward: loss, logits, cache and what the tower gave."""
    frame, text_model = FRAMES[model_type], m.model.text_model
    if not frame.sdpa:
        raise UnsupportedError(f"oomph cannot play {model_type} inside this model yet.", "Trace it: oomph trace.")
    if use_cache and past_key_values is None:
        past_key_values = dynamic_cache(m.tape, llama.windows_of(text_model))
    inputs_embeds = text_model.embed_tokens(input_ids)
    kept: list[Any] = []
    if images:
        mm_encoder_outputs = image_features(m.model, images, checkpointing)
        check_room(m, input_ids.shape[1], mm_encoder_outputs[0][0].shape[0] // m.tape.images)
        image_hidden_states = ops.cast(ops.cat(mm_encoder_outputs[0], 0), inputs_embeds.dtype)
        if m.model.connector.leaves_one:
            (special_image_mask,) = ops.placeholders(input_ids)
            inputs_embeds = ops.masked_scatter(inputs_embeds, special_image_mask, image_hidden_states)
        else:
            inputs_embeds = _merged(input_ids, inputs_embeds, image_hidden_states)
        kept.append(mm_encoder_outputs if m.model.connector.leaves_one else image_hidden_states)
    hidden_states, past_key_values = llama.model(
        text_model, None, checkpointing, frame, attention_mask, position_ids, past_key_values, inputs_embeds,
        use_cache=use_cache,
    )  # fmt: skip
    del inputs_embeds
    if images:
        del mm_encoder_outputs
        del image_hidden_states
        if m.model.connector.leaves_one:
            del special_image_mask
    loss, logits = llama.scored(m.lm_head, hidden_states, text_model.embed_tokens.weight, labels, logits_to_keep)
    return loss, logits, past_key_values, *kept


def _merged(input_ids: Sym, inputs_embeds: Sym, image_hidden_states: Sym) -> Sym:
    """Mirror Idefics3Model.inputs_merger: where images are, and for a moment how many tokens they are."""
    tape, (batch, length) = input_ids.tape, input_ids.shape
    special_image_mask = ops.unsqueeze(tape.empty((batch, length), "bool", op="eq"), 2)
    tokens = tape.empty((), "int64", op="sum")
    elements = tape.empty((), "int64", op="mul")
    del tokens
    equal = tape.empty((), "bool", op="eq")
    del elements
    all_true = tape.empty((), "bool", op="_is_all_true")
    del all_true, equal
    inputs_embeds = ops.masked_scatter(inputs_embeds, special_image_mask, image_hidden_states)
    return inputs_embeds


def image_features(m: Bound, images: Images, checkpointing: Checkpointing) -> list[Any]:
    """Mirror Idefics3Model.get_image_features: features [T, H] of each sequence's images, the tower's last state.

    Tiles of padding are looked for, and what is none of them is copied.
    """
    tape, block = m.tape, m.vision_model.block
    pixel_values = ops.cast(images["pixel_values"], m.vision_model.embeddings.patch_embedding.weight.dtype)
    batch, per_row = pixel_values.shape[:2]
    tiles = batch * per_row
    pixel_values = ops.view(pixel_values, (tiles, *pixel_values.shape[2:]))
    real_images_inds = _real(tape, pixel_values, m.connector.leaves_one)
    num_real_images_per_batch = tape.empty((batch,), "int64", op="sum")
    pixel_values = take_where(pixel_values, real_images_inds, tiles)
    pixel_attention_mask = images["pixel_attention_mask"]
    pixel_attention_mask = ops.view(pixel_attention_mask, (tiles, *pixel_attention_mask.shape[2:]))
    pixel_attention_mask = take_where(pixel_attention_mask, real_images_inds, tiles)
    side = operator.index(block.image_size // block.patch_size)
    filled = tape.empty((tiles, side, side), "int64", op="sum")
    patch_attention_mask = tape.empty((tiles, side, side), "bool", op="gt")
    del filled
    image_outputs = tower(m.vision_model, pixel_values, checkpointing, side)
    features = connector(m.connector, image_outputs[1], side)
    split = ops.split_axis(features, 0, [per_row] * operator.index(batch))
    image_outputs[0] = [ops.view(each, (each.shape[0] * each.shape[1], each.shape[2])) for each in split]
    del split
    del pixel_values, real_images_inds, num_real_images_per_batch, pixel_attention_mask, patch_attention_mask, features
    return image_outputs


def _real(tape: Tape, pixel_values: Sym, leaves_one: bool) -> Sym:
    """Return which tiles are none of padding: booleans [T]."""
    equal = tape.empty(pixel_values.shape, "bool", op="eq")
    empty = tape.empty((pixel_values.shape[0],), "int64", op="sum")
    del equal
    real_images_inds = tape.empty((pixel_values.shape[0],), "bool", op="ne")
    del empty
    if leaves_one:
        found = tape.empty((), "bool", op="any")
        none = tape.empty((), "bool", op="bitwise_not")
        del found, none
    return real_images_inds


def tower(m: Bound, pixel_values: Sym, checkpointing: Checkpointing, side: int) -> list[Any]:
    """Mirror Idefics3VisionTransformer.forward: a place for features, the last state, normed."""
    hidden_states = embeddings(m.embeddings, pixel_values, side)
    m.tape.empty((), "bool", op="all")  # do all patches count? then there is no mask
    last_hidden_state, each = hidden_states, replace(checkpointing, every=1)
    for index, encoder_layer in enumerate(m.encoder.layers):
        m.tape.scope = encoder_layer.path
        run = partial(clip.layer, encoder_layer, rate=m.dropout, maps_first=False)
        last_hidden_state = each(m.tape, run, last_hidden_state) if each.takes(index) else run(last_hidden_state)
    m.tape.scope = ""
    encoder_outputs = last_hidden_state
    last_hidden_state = m.post_layernorm(last_hidden_state)
    del hidden_states, encoder_outputs
    return [None, last_hidden_state]


def embeddings(m: Bound, pixel_values: Sym, side: int) -> Sym:
    """Mirror Idefics3VisionEmbeddings.forward: positions of patches are looked up in buckets."""
    tape, tiles = m.tape, pixel_values.shape[0]
    patch_embeds = ops.conv_patches(pixel_values, m.patch_embedding.weight, m.patch_embedding.bias, (side, side))
    found = ops.transpose(ops.view(patch_embeds, (tiles, patch_embeds.shape[1], side * side)), 1, 2)
    buckets = math.ceil((1.0 - 1 / side) / (1 / side))  # as torch.arange counts
    boundaries = tape.empty((buckets,), "fp32", op="arange")
    position_ids = tape.empty((tiles, side * side), "int64", op="full")
    counts = [tape.empty((tiles,), "int64", op="sum") for _ in range(2)]
    steps = [_step(tape, tiles) for _ in range(2)]
    indices = [tape.empty((side,), "fp32", op="arange") for _ in range(2)]
    fractions = [tape.empty((tiles, side), "fp32", op="mul") for _ in range(2)]
    for axis in range(2):
        fractions[axis] = tape.empty((tiles, side), "fp32", op="clamp")
    coords = [tape.empty((tiles, side), "int64", op="bucketize") for _ in range(2)]
    scaled = tape.empty((tiles, side, 1), "int64", op="mul")
    pos_ids = tape.empty((tiles, side * side), "int64", op="add")
    del scaled
    position_ids = tape.empty((tiles, side * side), "int64", op="where")
    found = found + ops.embedding(m.position_embedding.weight, position_ids)
    del patch_embeds, boundaries, position_ids
    for made in (counts, steps, indices, fractions, coords):
        made.reverse()
        made.clear()  # dies from the end
    del pos_ids
    if tape.inputs_train:
        found.requires_grad = True
    return found


def _step(tape: Tape, tiles: Size) -> Sym:
    inverse = tape.empty((tiles,), "fp32", op="reciprocal")
    step = tape.empty((tiles,), "fp32", op="mul")
    del inverse
    return step


def connector(m: Bound, image_hidden_states: Sym, side: int) -> Sym:
    """Mirror Idefics3Connector.forward: squares of patches joined, and mapped."""
    image_hidden_states = _shuffled(image_hidden_states, side, operator.index(m.scale))
    image_hidden_states = m.modality_projection.proj(image_hidden_states)
    return image_hidden_states


def _shuffled(x: Sym, side: int, scale: int) -> Sym:
    """Mirror pixel_shuffle, which copies twice."""
    tiles, _, width = x.shape
    less = side // scale
    x = ops.view(x, (tiles, side, less, width * scale))
    x = ops.permute(x, (0, 2, 1, 3))
    x = ops.view(x, (tiles, less, less, width * scale**2))
    x = ops.permute(x, (0, 2, 1, 3))
    x = ops.view(x, (tiles, less**2, width * scale**2))
    return x
