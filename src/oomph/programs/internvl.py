"""InternVLForConditionalGeneration.forward: InternViT, patches joined to tokens, two maps, and any decoder.

Source: transformers 5.23, models/internvl/modeling_internvl.py.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from oomph import ops
from oomph.errors import UnsupportedError
from oomph.families.multimodal import ShufflingProjector
from oomph.programs import intern_vision, llama, towers
from oomph.programs.cache import Cache
from oomph.programs.frames import FRAMES
from oomph.programs.llava import buffers, sliding_windows
from oomph.programs.towers import Images, check_room
from oomph.tape.bound import Bound
from oomph.tape.checkpoint import Checkpointing
from oomph.tape.sizes import Shapes, Size, yes
from oomph.tape.sym import Sym
from oomph.tiles import canvas

if TYPE_CHECKING:
    from oomph.job import InferJob, TrainJob

__all__ = ["buffers", "causal_lm", "inputs_of_images", "sliding_windows", "updated"]


def inputs_of_images(m: Bound, job: TrainJob | InferJob) -> Shapes:
    """Return what a batch has of images: their tiles."""
    block: Any = m.model.vision_tower.block
    height, width = block.image_size
    tiles = job.batch * job.images * canvas(job.image_size, operator.index(height))
    return {"pixel_values": ((tiles, block.num_channels, height, width), "fp32")}


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
    """Mirror InternVLForConditionalGeneration.forward: loss, logits, cache and the images' features."""
    frame = FRAMES[model_type]
    if not frame.sdpa:
        m.tape.keep_tower_kernel()
    language_model = m.model.language_model
    inputs_embeds = language_model.embed_tokens(input_ids)
    image_hidden_states = []
    if images:
        mm_encoder_outputs, features = image_features(m.model, images["pixel_values"], checkpointing)
        per_image = features.shape[0] // (input_ids.shape[0] * m.tape.images)
        check_room(m, input_ids.shape[1], per_image * features.shape[1])
        features = ops.cast(features, inputs_embeds.dtype)
        (special_image_mask,) = ops.placeholders(input_ids)
        inputs_embeds = ops.masked_scatter(inputs_embeds, special_image_mask, features)
        image_hidden_states.append(features)
        del features
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


def image_features(m: Bound, pixel_values: Sym, checkpointing: Checkpointing) -> tuple[list[Any], Sym]:
    """Mirror InternVLModel.get_image_features: the tower's outputs, and among them features [tiles, T, H]."""
    pixel_values = ops.cast(pixel_values, m.vision_tower.embeddings.cls_token.dtype)
    projector = m.multi_modal_projector.block
    if not isinstance(projector, ShufflingProjector) or not operator.index(projector.layer) or projector.class_token:
        raise UnsupportedError("oomph cannot play images with this projector yet.", "Leave --images out: text alone.")
    vision_outputs, vision_features = intern_vision.tower(
        m.vision_tower, pixel_values, checkpointing, operator.index(projector.layer)
    )
    batch_size, length, hidden = vision_features.shape
    vision_features = ops.slice_axis(vision_features, 1, 1, length)
    (height, width), (down, across) = m.vision_tower.image_size, m.vision_tower.patch_size
    feature_size = height // down
    if not yes(feature_size == width // across):
        raise UnsupportedError("oomph plays square tiles of square patches alone.", "Leave --images out: text alone.")
    vision_features = ops.view(vision_features, (batch_size, feature_size, feature_size, hidden))
    vision_features = pixel_shuffle(vision_features, round(1 / projector.ratio))
    _, side, _, joined = vision_features.shape
    vision_features = ops.view(vision_features, (batch_size, side * side, joined))
    vision_features = projected(m.multi_modal_projector, vision_features)
    vision_outputs[0] = vision_features  # its pooler_output was None, so it comes after all others
    del pixel_values
    return vision_outputs, vision_features


def pixel_shuffle(vision_features: Sym, merge: int) -> Sym:
    """Mirror pixel_shuffle: squares of `merge` patches a side joined, [B, P, P, V] to [B, P / m, P / m, m · m · V]."""
    batch_size, width, height, channels = vision_features.shape
    if not yes(height % merge == 0):
        raise UnsupportedError("The patches of a tile cannot be joined evenly.", "Check downsample_ratio.")
    vision_features = ops.view(vision_features, (batch_size, width, height // merge, channels * merge))
    vision_features = ops.contiguous(ops.permute(vision_features, (0, 2, 1, 3)))
    vision_features = ops.view(vision_features, (batch_size, height // merge, width // merge, channels * merge * merge))
    vision_features = ops.contiguous(ops.permute(vision_features, (0, 2, 1, 3)))
    return vision_features


def projected(m: Bound, image_features: Sym) -> Sym:
    """Mirror InternVLMultiModalProjector.forward."""
    hidden_states = m.layer_norm(image_features)
    hidden_states = m.linear_1(hidden_states)
    hidden_states = ops.activate(m.activation, hidden_states)
    hidden_states = m.linear_2(hidden_states)
    return hidden_states  # type: ignore[no-any-return]


def updated(m: Bound, parameters: list[Sym]) -> list[Sym]:
    """Return those of the parameters that get a gradient: not the mask token, nor what is behind the features that are
    taken.
    """
    tower, layer = m.model.vision_tower, m.model.multi_modal_projector.block.layer
    unused = [f"{tower.path}.embeddings.mask_token"]
    if m.tape.images and yes(layer > 1):
        layers = list(tower.encoder.layer)
        unused += [f"{each.path}." for each in layers[len(layers) + 1 - operator.index(layer) :]]
        unused.append(f"{tower.path}.layernorm.")
    return [one for one in towers.updated(m, parameters) if not one.made_for.startswith(tuple(unused))]
