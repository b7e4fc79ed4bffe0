"""Llama4ForConditionalGeneration.forward: a tower with an adapter, one map, and a whole Llama 4 that makes logits; the
loss is made around it.

Source: transformers 5.23, models/llama4/modeling_llama4.py.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.programs import llama, llama4_vision
from oomph.programs.cache import Cache
from oomph.programs.frame import project
from oomph.programs.frames import FRAMES
from oomph.programs.loss import causal_lm_loss, kept
from oomph.programs.towers import Images, check_room
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size
from oomph.tape.sym import Sym
from oomph.tiles import best_fit

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

LANGUAGE_MODEL = "language_model."  # how the paths of what text passes through begin


def buffers(m: Bound) -> list[Sym]:
    """Return the tower's buffers, then the language model's."""
    return [*llama4_vision.buffers(m.vision_model), *llama.model_buffers(m.language_model.model)]


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return the window of every layer, None where attention is full."""
    return llama.windows_of(m.language_model.model)


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: of text alone the language model's, and none up to the last
    layer of the tower that is in a reentrant checkpoint.
    """
    if not m.tape.images:
        return [one for one in parameters if one.made_for.startswith(LANGUAGE_MODEL)]
    if not m.tape.reentrant:
        return parameters
    path = m.vision_model.path
    after = (f"{path}.layernorm_post.", f"{path}.vision_adapter.")
    return [one for one in parameters if not one.made_for.startswith(f"{path}.") or one.made_for.startswith(after)]


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has of images: tiles in the dtype of the weights, which the tower's first map wants."""
    tower, side = m.vision_model, m.vision_model.image_size
    tiles = job.batch * job.images * best_fit(job.image_size, operator.index(side))
    return {"pixel_values": ((tiles, tower.num_channels, side, side), tower.class_embedding.dtype)}


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
    """Mirror Llama4ForConditionalGeneration.forward: loss, logits, cache and the images' features."""
    language_model = m.language_model
    inputs_embeds = language_model.model.embed_tokens(input_ids)
    found = []
    if images:
        mm_encoder_outputs = image_features(m, images["pixel_values"], checkpointing)
        features = mm_encoder_outputs[0]
        per_image = features.shape[0] // (input_ids.shape[0] * m.tape.images)
        check_room(m, input_ids.shape[1], per_image * features.shape[1])
        vision_flat = ops.view(features, (features.shape[0] * features.shape[1], features.shape[2]))
        projected_vision_flat = ops.cast(m.multi_modal_projector.linear_1(vision_flat), inputs_embeds.dtype)
        (special_image_mask,) = ops.placeholders(input_ids)
        inputs_embeds = ops.masked_scatter(inputs_embeds, special_image_mask, projected_vision_flat)
        found.append(features)
        del features
    logits, past_key_values = language(
        language_model, checkpointing, model_type, attention_mask, position_ids, past_key_values, inputs_embeds,
        use_cache, logits_to_keep,
    )  # fmt: skip
    loss = None if labels is None else causal_lm_loss(logits, labels)
    del inputs_embeds
    if images:
        del mm_encoder_outputs, vision_flat, projected_vision_flat, special_image_mask
    return loss, logits, past_key_values, *found


def language(
    m: Bound,
    checkpointing: Checkpointing,
    model_type: str,
    attention_mask: Sym | None,
    position_ids: Sym | None,
    past_key_values: Cache | None,
    inputs_embeds: Sym,
    use_cache: bool,
    logits_to_keep: Size,
) -> tuple[Sym, Cache | None]:
    """Mirror Llama4ForCausalLM.forward without labels: logits and cache."""
    hidden_states, past_key_values = llama.model(
        m.model, None, checkpointing, FRAMES[model_type], attention_mask, position_ids, past_key_values, inputs_embeds,
        use_cache=use_cache,
    )  # fmt: skip
    hidden_states = kept(hidden_states, logits_to_keep)
    _, logits = project(m.lm_head, hidden_states, m.model.embed_tokens.weight, None)
    assert logits is not None
    return logits, past_key_values


def image_features(m: Bound, pixel_values: Sym, checkpointing: Checkpointing) -> list[Any]:
    """Mirror get_image_features: the tower's outputs, its features [tiles, T, V] among them."""
    return llama4_vision.tower(m.vision_model, pixel_values, checkpointing)
