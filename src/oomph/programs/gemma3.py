"""Gemma3ForConditionalGeneration.forward: SigLIP, a pooling projector, and a Gemma 3 whose masks are made outside.

Source: transformers 5.23, models/gemma3/modeling_gemma3.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.families.layer_types import FULL, SLIDING
from oomph.programs import clip, llama
from oomph.programs.cache import Cache
from oomph.programs.frames import FRAMES
from oomph.programs.llava import buffers, sliding_windows
from oomph.programs.towers import Images, check_room, square_images, updated
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size
from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

__all__ = ["buffers", "causal_lm", "inputs_of_images", "sliding_windows", "updated"]


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has beside its tokens: images, and which tokens are theirs."""
    return {**square_images(m.model.vision_tower.block, job), "token_type_ids": ((job.batch, job.seq_len), "int64")}


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
    """Mirror Gemma3ForConditionalGeneration.forward: loss, logits, cache and the images' features."""
    language_model = m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    image_hidden_states = []
    if images:
        if past_key_values is not None and past_key_values.is_static:
            raise UnsupportedError("Masks of images over a static cache are not modelled.", "Say --cache dynamic.")
        mm_encoder_outputs = image_features(m.model, images["pixel_values"], checkpointing)
        features = mm_encoder_outputs[1]
        check_room(m, input_ids.shape[1], features.shape[1])
        features = ops.cast(features, inputs_embeds.dtype)
        (special_image_mask,) = ops.placeholders(input_ids)
        inputs_embeds = ops.masked_scatter(inputs_embeds, special_image_mask, features)
        image_hidden_states.append(features)
        del features
        block_sequence_ids = ops.image_blocks(images["token_type_ids"])
        masks = _image_masks(language_model, inputs_embeds, block_sequence_ids)
    else:
        masks = _masks(language_model, inputs_embeds, attention_mask, past_key_values, position_ids)
    hidden_states, past_key_values = llama.model(
        language_model, None, checkpointing, FRAMES[model_type], masks, position_ids, past_key_values, inputs_embeds,
        use_cache=use_cache,
    )  # fmt: skip
    if images:
        del mm_encoder_outputs, special_image_mask
    del masks, inputs_embeds
    if images:
        del block_sequence_ids
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values, *image_hidden_states


def image_features(m: Bound, pixel_values: Sym, checkpointing: Checkpointing) -> list[Any]:
    """Mirror Gemma3Model.get_image_features: the tower's outputs, with features [B, T, H] as pooled."""
    vision_outputs, last_hidden_state = clip.tower(m.vision_tower, pixel_values, checkpointing)
    vision_outputs[1] = projected(m.multi_modal_projector, last_hidden_state)
    return vision_outputs


def projected(m: Bound, vision_outputs: Sym) -> Sym:
    """Mirror Gemma3MultiModalProjector.forward: patches [B, P · P, V] pooled to [B, T, V] and mapped to [B, T, H]."""
    batch_size, _, hidden_size = vision_outputs.shape
    reshaped_vision_outputs = ops.transpose(vision_outputs, 1, 2)
    reshaped_vision_outputs = ops.view(reshaped_vision_outputs, (batch_size, hidden_size, m.patches, m.patches))
    reshaped_vision_outputs = ops.contiguous(reshaped_vision_outputs)
    pooled_vision_outputs = ops.pooled(reshaped_vision_outputs, m.side)
    pooled_vision_outputs = ops.view(pooled_vision_outputs, (batch_size, hidden_size, m.side * m.side))
    pooled_vision_outputs = ops.transpose(pooled_vision_outputs, 1, 2)
    normed_vision_outputs = m.mm_soft_emb_norm(pooled_vision_outputs)
    projected_vision_outputs = ops.times_rows(normed_vision_outputs, m.mm_input_projection_weight)
    return ops.cast(projected_vision_outputs, vision_outputs.dtype)


def _image_masks(m: Bound, inputs_embeds: Sym, block_sequence_ids: Sym) -> llama.Masks:
    """Mirror create_masks_for_vision_model: both masks, whatever the layers are."""
    windows = [window for window in llama.windows_of(m) if window is not None]
    full = ops.causal_mask(inputs_embeds, None, None, looks=False, blocks=block_sequence_ids)
    sliding = ops.window_with_images(inputs_embeds, block_sequence_ids)
    return {None: full, (windows or [0])[0]: sliding}


def _masks(
    m: Bound, inputs_embeds: Sym, attention_mask: Sym | None, past_key_values: Cache | None, position_ids: Sym | None
) -> llama.Masks:
    """Mirror create_masks_for_generate: a mask for each kind of layer, in the order of a set of their names."""
    kinds = {window: FULL if window is None else SLIDING for window in llama.windows_of(m)}
    order = list({kinds[window] for window in kinds})
    return {
        window: ops.causal_mask(
            inputs_embeds, attention_mask, past_key_values, window, position_ids, looks=position_ids is not None
        )
        for window in sorted(kinds, key=lambda window: order.index(kinds[window]))
    }
