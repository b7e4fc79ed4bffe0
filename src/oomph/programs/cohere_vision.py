"""AyaVisionForConditionalGeneration.forward and Cohere2VisionForConditionalGeneration's: LLaVA with images in tiles,
whose patches are joined to tokens and mapped by a gated MLP.

Source: transformers 5.23, models/aya_vision/modeling_aya_vision.py, models/cohere2_vision/modeling_cohere2_vision.py.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.families.multimodal import GatedProjector
from oomph.programs import clip, llava, towers
from oomph.programs.llava import buffers, sliding_windows
from oomph.programs.towers import Images
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, yes
from oomph.tape.sym import Sym
from oomph.tiles import best_fit, canvas

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

MOST = 12  # tiles of an image, as the class of Command A Vision's processor takes it
__all__ = ["buffers", "causal_lm", "image_features", "inputs_of_images", "sliding_windows", "updated"]


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has of images: their tiles."""
    block: Any = m.model.vision_tower.block
    side = operator.index(block.image_size)
    normed = m.model.multi_modal_projector.normed
    tiles = best_fit(job.image_size, side, MOST) if normed else canvas(job.image_size, side)
    return {"pixel_values": ((job.batch * job.images * tiles, block.num_channels, side, side), "fp32")}


def causal_lm(
    m: Bound, input_ids: Sym, labels: Sym | None, checkpointing: Checkpointing, model_type: str, **given: Any
) -> tuple[Any, ...]:
    """Mirror AyaVisionForConditionalGeneration.forward: loss, logits, cache and the images' features."""
    return llava.causal_lm(
        m, input_ids, labels, checkpointing, model_type, **given, see=image_features, merge=as_they_are
    )


def image_features(m: Bound, images: Images, checkpointing: Checkpointing) -> tuple[list[Any], list[Sym]]:
    """Mirror AyaVisionModel.get_image_features: the tower's outputs, and features [tiles, T, H]."""
    projector = m.multi_modal_projector.block
    assert isinstance(projector, GatedProjector)
    if projector.normed:
        image_outputs, selected_image_feature = clip.tower(m.vision_tower, images["pixel_values"], checkpointing)
    else:
        image_outputs, selected_image_feature = llava.selected(m, images["pixel_values"], checkpointing)
    tiles = selected_image_feature.shape[0]
    features = projected(m.multi_modal_projector, selected_image_feature)
    features = ops.view(features, (tiles, features.shape[1] * features.shape[2], features.shape[3]))
    llava.set_pooled(m.vision_tower, image_outputs, [features])
    return image_outputs, [features]


def projected(m: Bound, image_features: Sym) -> Sym:
    """Mirror AyaVisionMultiModalProjector.forward, or Cohere2VisionMultiModalProjector's: [tiles, P, P, H]."""
    image_features = pixel_shuffle(image_features, operator.index(m.factor))
    if "layernorm" in m.parts:
        image_features = m.layernorm(image_features)
    hidden_states = m.linear_1(image_features)
    x, gate = ops.split(hidden_states, hidden_states.shape[-1] // 2, 2)
    hidden_states = ops.activate("silu", gate) * x
    hidden_states = m.linear_2(hidden_states)
    return hidden_states  # type: ignore[no-any-return]


def pixel_shuffle(image_features: Sym, factor: int) -> Sym:
    """Mirror pixel_shuffle: squares of `factor` patches a side joined, [tiles, P · P, V] to [tiles, P / f, P / f,
    f · f · V].
    """
    tiles, length, channels = image_features.shape
    side = round(operator.index(length) ** 0.5)
    if not yes(side % factor == 0) or not yes(side * side == length):
        raise UnsupportedError("The patches of a tile cannot be joined evenly.", "Check downsample_factor.")
    image_features = ops.view(image_features, (tiles, side, side // factor, channels * factor))
    image_features = ops.permute(image_features, (0, 2, 1, 3))
    image_features = ops.view(image_features, (tiles, side // factor, side // factor, channels * factor**2))
    image_features = ops.permute(image_features, (0, 2, 1, 3))
    return image_features


def as_they_are(features: list[Sym], input_ids: Sym, inputs_embeds: Sym) -> tuple[Sym, Sym, Sym]:
    """Mirror what puts features of tiles [tiles, T, H] among tokens: as `merged`, but there is nothing to join."""
    image_features = ops.cast(features[0], inputs_embeds.dtype)
    (special_image_mask,) = ops.placeholders(input_ids)
    inputs_embeds = ops.masked_scatter(inputs_embeds, special_image_mask, image_features)
    return inputs_embeds, image_features, special_image_mask


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient."""
    if m.model.multi_modal_projector.normed:
        return towers.updated(m, parameters)
    return llava.updated(m, parameters)
