"""Qwen2_5OmniThinkerForConditionalGeneration.forward of text and images, and that of Qwen3-Omni's thinker:
Qwen2.5-VL's tower or Qwen3-VL's, and a decoder whose positions count as text's where no mask is given.

Source: transformers 5.23, models/qwen2_5_omni/modeling_qwen2_5_omni.py,
models/qwen3_omni_moe/modeling_qwen3_omni_moe.py.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from oomph import ops
from oomph.blocks.vision_native import Qwen3Vision
from oomph.errors import UnsupportedError
from oomph.programs import llama, qwen_vl
from oomph.programs.cache import Cache
from oomph.programs.frames import FRAMES
from oomph.programs.llava import sliding_windows
from oomph.programs.qwen_vision import grid_of
from oomph.programs.qwen_vl import image_features, text_model
from oomph.programs.towers import Images, check_room, tower_buffers
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size, product
from oomph.tape.sym import Sym
from oomph.tape.tape import Tape

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

# The dtype in which positions are counted along a mask.
POSITIONS = {"qwen2_5_omni_text": "int64", "qwen3_omni_moe_text": "fp32"}
LATE = ("qwen2_5_omni_text",)  # whose class has the mask of images as its last local
__all__ = ["buffers", "causal_lm", "image_features", "inputs_of_images", "leave_behind", "sliding_windows", "updated"]


def buffers(m: Bound) -> list[Sym]:
    """Return the buffers of both towers, then the language model's."""
    towers = [m.model.audio_tower, m.model.visual]
    return [*(each for one in towers for each in tower_buffers(one)), *llama.model_buffers(m.model.language_model)]


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: not the audio tower's."""
    unheard = f"{m.model.audio_tower.path}."
    return [one for one in qwen_vl.updated(m, parameters) if not one.made_for.startswith(unheard)]


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has of images: all their patches, and how many rows and columns they are."""
    tower, count = m.model.visual, operator.index(job.batch * job.images)
    patches = sum(grid_of(tower.block, m.tape, count).lengths)
    return {
        "pixel_values": ((patches, product(tower.patch_embed.proj.weight.shape[1:])), "fp32"),
        "image_grid_thw": ((count, 3), "int64"),
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
) -> tuple[Sym | None, Sym | None, Cache | None]:
    """Mirror Qwen2_5OmniThinkerForConditionalGeneration.forward, which knows no logits_to_keep: loss, logits, cache."""
    tape, language_model = m.tape, m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    visual_pos_masks: Sym | None = None
    visual_embeds_multiscale: list[Sym] = []
    if images:
        grid = grid_of(m.model.visual.block, tape, images["image_grid_thw"].shape[0])
        check_room(m, input_ids.shape[1], grid.tokens)
        mm_encoder_outputs = image_features(m.model.visual, images["pixel_values"], checkpointing, grid)
        image_embeds = ops.cast(ops.cat(mm_encoder_outputs[-2], 0), inputs_embeds.dtype)
        image_mask, audio_mask = placeholders(input_ids)
        inputs_embeds = ops.masked_scatter(inputs_embeds, image_mask, image_embeds)
        multiscale = mm_encoder_outputs[:-2]
        if multiscale:
            visual_pos_masks = ops.view(image_mask, input_ids.shape)
            visual_embeds_multiscale = [ops.cat(feat, 0) for feat in multiscale[0]]
    if position_ids is None and attention_mask is not None:
        if past_key_values is not None:
            raise UnsupportedError(
                "oomph cannot play Qwen's omni models with a padding mask here.", "Leave --padding out."
            )
        position_ids, rope_deltas = rope_index(tape, attention_mask, POSITIONS[model_type])
        m.model.parts["rope_deltas"] = tape.note(rope_deltas, "kept by a module")
        del rope_deltas
    hidden_states, past_key_values = text_model(
        language_model, checkpointing, FRAMES[model_type], attention_mask, position_ids, past_key_values,
        inputs_embeds, use_cache, visual_pos_masks, visual_embeds_multiscale,
    )  # fmt: skip
    if images and model_type in LATE:
        del position_ids, inputs_embeds, mm_encoder_outputs, audio_mask, image_embeds, image_mask
    elif images:
        del position_ids, inputs_embeds, mm_encoder_outputs, visual_embeds_multiscale, visual_pos_masks, image_mask
        del audio_mask, image_embeds, multiscale
    else:
        del position_ids, inputs_embeds
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, 0)
    return loss, logits, past_key_values


def placeholders(input_ids: Sym) -> tuple[Sym, Sym]:
    """Mirror get_placeholder_mask: booleans [B, S, 1] that say which tokens are an image's and which are audio's."""
    tape, (batch, length) = input_ids.tape, input_ids.shape
    image_mask, video_mask, audio_mask = (tape.empty((batch, length), "bool", op="eq") for _ in range(3))
    n_image_tokens = tape.empty((), "int64", op="sum")
    elements = tape.empty((), "int64", op="mul")
    equal = tape.empty((), "bool", op="eq")
    del elements
    all_true = tape.empty((), "bool", op="_is_all_true")
    del all_true
    del equal
    n_video_tokens = tape.empty((), "int64", op="sum")
    del n_image_tokens, n_video_tokens
    del video_mask
    image, audio = (Sym((batch, length, 1), "bool", (length, 1, 1), mask.storage) for mask in (image_mask, audio_mask))
    return image, audio


def rope_index(tape: Tape, attention_mask: Sym, dtype: str) -> tuple[Sym, Sym]:
    """Mirror get_rope_index of text: positions [3, B, S] in a dtype, one tensor for all three, and what they are ahead
    of tokens [B, 1].
    """
    batch, length = attention_mask.shape
    mask = ops.cast(attention_mask, dtype)
    counted = tape.empty((batch, length), dtype, op="cumsum")
    del mask
    positions = tape.empty((batch, length), dtype, op="sub")
    del counted
    masked = tape.empty((batch, length), "bool", op="eq")
    del masked
    largest = tape.empty((batch, length), dtype, op="max")
    which = tape.empty((batch, length), "int64", op="max")
    del which
    max_position_ids = tape.empty((batch, 1), dtype, op="max")
    where = tape.empty((batch, 1), "int64", op="max")
    del largest, where
    after = tape.empty((batch, 1), dtype, op="add")
    tokens = tape.empty((batch, 1), "int64", op="sum")
    rope_deltas = tape.empty((batch, 1), dtype, op="sub")
    del after, tokens, max_position_ids
    return Sym((3, batch, length), dtype, (0, length, 1), positions.storage), rope_deltas


def leave_behind(m: Bound, job: TrainJob) -> None:
    """Allocate what an earlier forward pass left: how far positions are ahead of tokens, where there is a mask."""
    if job.padding:
        dtype = "fp32" if isinstance(m.model.visual.block, Qwen3Vision) else "int64"
        made = m.tape.empty((job.batch, 1), dtype, op="sub")
        m.model.parts["rope_deltas"] = m.tape.note(made, "kept by a module")
