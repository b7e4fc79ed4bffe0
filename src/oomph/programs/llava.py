"""LlavaForConditionalGeneration.forward and its likes: a tower, a projector, and a decoder that is handed embeddings.

Source: transformers 5.23, models/llava/modeling_llava.py and those of the types in programs/__init__.py.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.blocks.vision_native import PixtralVision
from oomph.errors import UnsupportedError
from oomph.families.multimodal import FeatureProjector
from oomph.programs import clip, llama, pixtral, towers
from oomph.programs.cache import Cache
from oomph.programs.frames import FRAMES
from oomph.programs.towers import Images, check_room, count, merged, square_images, tower_buffers
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size
from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

OF_VIDEOS = "model.vision_resampler."  # what LLaVA-NeXT-Video shrinks frames with
See = Callable[[Bound, Images, Checkpointing], "tuple[list[Any], list[Sym]]"]
Merge = Callable[["list[Sym]", Sym, Sym], "tuple[Sym, Sym, Any]"]


def buffers(m: Bound) -> list[Sym]:
    """Return the tower's buffers, then the language model's."""
    return [*tower_buffers(m.model.vision_tower), *llama.model_buffers(m.model.language_model)]


def sliding_windows(m: Bound) -> list[Size | None]:
    """Return the window of every layer, None where attention is full."""
    return llama.kept_by(m.model.language_model)


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has of images; those of Pixtral's tower are of any size."""
    block = m.model.vision_tower.block
    return pixtral.inputs_of_sizes(m.model, job) if isinstance(block, PixtralVision) else square_images(block, job)


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
    see: See | None = None,
    merge: Merge = merged,
) -> tuple[Any, ...]:
    """Mirror LlavaForConditionalGeneration.forward: loss, logits, cache and the images' features; `model_type` is the
    language model's. Of kin `see` is get_image_features, `merge` what puts features among tokens.
    """
    frame = FRAMES[model_type]
    if not frame.sdpa:
        m.tape.kernel = "eager"
    language_model = m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    image_hidden_states = []
    if images:
        check_projector(m.model.multi_modal_projector.block)
        if isinstance(m.model.vision_tower.block, PixtralVision) and see is None:
            grid = pixtral.grid_of(m.model, count(images["pixel_values"]))
            mm_encoder_outputs = pixtral.image_features(m.model, images["pixel_values"], checkpointing, grid)
            pooled, places = mm_encoder_outputs[1], grid.places
        else:
            mm_encoder_outputs, pooled = (see or image_features)(m.model, images, checkpointing)
            places = sum(math.prod(each.shape[:-1]) for each in pooled) // (input_ids.shape[0] * m.tape.images)
        check_room(m, input_ids.shape[1], places)
        inputs_embeds, features, special_image_mask = merge(pooled, input_ids, inputs_embeds)
        image_hidden_states.append(features)
        del features, pooled
    hidden_states, past_key_values = llama.model(
        language_model, None, checkpointing, frame, attention_mask, position_ids, past_key_values, inputs_embeds,
        use_cache=use_cache,
    )  # fmt: skip
    del inputs_embeds
    if images:
        del mm_encoder_outputs, special_image_mask
    table = language_model.embed_tokens.weight
    loss, logits = llama.scored(m.lm_head, hidden_states, table, labels, logits_to_keep)
    return loss, logits, past_key_values, *image_hidden_states


def check_projector(block: Any) -> None:
    """Refuse a projector that takes several layers' features, or those of a layer counted from the first."""
    if not isinstance(block, FeatureProjector) or not operator.index(block.layer):
        raise UnsupportedError("oomph cannot play images with this projector yet.", "Leave --images out: text alone.")


def image_features(m: Bound, images: Images, checkpointing: Checkpointing) -> tuple[list[Any], list[Sym]]:
    """Mirror LlavaModel.get_image_features: the tower's outputs, and among them each image's features [T, H]."""
    pixel_values = images["pixel_values"]
    image_outputs, selected_image_feature = selected(m, pixel_values, checkpointing)
    hidden_states = projected(m.multi_modal_projector, selected_image_feature)
    features = list(ops.unbind(hidden_states, 0, count(pixel_values)))
    set_pooled(m.vision_tower, image_outputs, features)
    return image_outputs, features


def set_pooled(tower: Bound, outputs: list[Any], features: list[Sym]) -> None:
    """Set pooler_output of a tower's outputs, which die from the end: one that was None comes after all others."""
    outputs[1] = features
    if not tower.class_token:
        outputs[0], outputs[1] = outputs[1], outputs[0]


def selected(m: Bound, pixel_values: Sym, checkpointing: Checkpointing) -> tuple[list[Any], Sym]:
    """Mirror how get_image_features comes by features: the tower's outputs, the hidden state that is projected."""
    block = m.multi_modal_projector.block
    image_outputs, selected_image_feature = clip.tower(
        m.vision_tower, pixel_values, checkpointing, operator.index(block.layer)
    )
    if not block.class_token:
        length = selected_image_feature.shape[1]
        selected_image_feature = ops.slice_axis(selected_image_feature, 1, 1, length)
    return image_outputs, selected_image_feature


def projected(m: Bound, image_features: Sym) -> Sym:
    """Mirror LlavaMultiModalProjector.forward."""
    hidden_states: Sym = m.linear_1(image_features)
    hidden_states = ops.activate(m.activation, hidden_states)
    hidden_states = m.linear_2(hidden_states)
    return hidden_states


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: not the tower's behind the features that are taken."""
    tower, layer = m.model.vision_tower, m.model.multi_modal_projector.block.layer
    unused = [f"{tower.path}.post_layernorm.", f"{tower.path}.head.", OF_VIDEOS]
    if m.tape.images:
        encoder = tower.transformer if isinstance(tower.block, PixtralVision) else tower.encoder
        layers = list(encoder.layers)
        unused += [f"{each.path}." for each in layers[len(layers) + 1 - operator.index(layer) :]]
    return [one for one in towers.updated(m, parameters) if not one.made_for.startswith(tuple(unused))]
