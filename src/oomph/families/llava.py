"""LLaVA and its kin: any ViT, two linear maps, any decoder.

Class defaults and structure: transformers 5.23, models/llava, llava_next, llava_next_video,
llava_onevision, vipllava, mistral3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module, Part
from oomph.blocks.basic import Conv, Linear, Norm
from oomph.blocks.vision import layer_norm
from oomph.config import MAX_SIZE, Config
from oomph.families.multimodal import (
    LM_HEAD,
    FeatureProjector,
    TiledProjector,
    compose,
    section,
    taken,
    text_model,
    tied_head,
    two_maps,
    with_last,
)
from oomph.families.towers import tower, typed_tower
from oomph.model import Model
from oomph.tensor import Tensor
from oomph.tiles import Tiles

TYPES: dict[str, dict[str, Any]] = {
    "llava": {"multimodal_projector_bias": True, "vision_feature_layer": -2, "tie_word_embeddings": False},
    "llava_next": {
        "multimodal_projector_bias": True, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
    },
    "llava_next_video": {
        "multimodal_projector_bias": True, "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
        "spatial_pool_mode": "average", "spatial_pool_stride": 2, "tie_word_embeddings": False,
    },
    "llava_onevision": {
        "multimodal_projector_bias": True, "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9", "tie_word_embeddings": False,
    },
    "vipllava": {"vision_feature_layers": (-2, -5, -8, -11, 6), "tie_word_embeddings": False},
    "mistral3": {
        "multimodal_projector_bias": False, "vision_feature_layer": -1, "spatial_merge_size": 2,
        "tie_word_embeddings": True,
    },
}  # fmt: skip

ALIASES: dict[str, dict[str, tuple[str, ...]]] = {"vipllava": {"vision_feature_layers": ("vision_feature_layer",)}}

TEXT = {"llava_onevision": "qwen2", "mistral3": "mistral"}  # the others: llama
VISION = {"llava_onevision": "siglip_vision_model", "mistral3": "pixtral"}  # the others: clip_vision_model

# What the class takes when there is no vision_config at all.
_CLIP_L: dict[str, Any] = {
    "intermediate_size": 4096, "hidden_size": 1024, "patch_size": 14, "image_size": 336, "num_hidden_layers": 24,
    "num_attention_heads": 16,
}  # fmt: skip
VISION_INIT: dict[str, dict[str, Any]] = {
    "llava": _CLIP_L,
    "llava_next": _CLIP_L,
    "llava_next_video": _CLIP_L,
    "vipllava": _CLIP_L,
    "llava_onevision": {
        "hidden_size": 1152, "intermediate_size": 4304, "patch_size": 14, "image_size": 384,
        "num_hidden_layers": 26, "num_attention_heads": 16, "vision_use_head": False,
    },
    "mistral3": {**_CLIP_L, "image_size": 1540},
}  # fmt: skip

# A tied text model ties the whole (its file may say so only there).
FORWARDED = {"llava", "llava_next_video", "llava_onevision"}
# Heights and widths that an image may be resized to, where the file names none.
_NEXT = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
PINPOINTS: dict[str, tuple[tuple[int, int], ...]] = {
    "llava_next": _NEXT,
    "llava_next_video": _NEXT,
    "llava_onevision": tuple((384 * down, 384 * across) for down in range(1, 7) for across in range(1, 7)),
}
CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"
ANYRES = "anyres_max_"  # letters that the class strips from vision_aspect_ratio
NEWLINE = {"llava_next", "llava_next_video", "llava_onevision"}  # a learned vector ends each row of patches


def build(config: Config) -> Model:
    """Return tower, projector (Mistral 3: with a patch merger) and decoder."""
    kind = config.model_type
    text = text_model(config, TEXT.get(kind, "llama"))
    vision = section(config, "vision_config", VISION_INIT[kind])
    vision = typed_tower(vision, VISION.get(kind, CLIP))
    hidden, width = text.hidden_size, vision.int("hidden_size")
    features = width * feature_layers(config, "vision_feature_layers" if kind == "vipllava" else "vision_feature_layer")
    before: dict[str, Part] = {}
    if kind == "mistral3":
        merged = width * config.int("spatial_merge_size") ** 2
        before = {"norm": Norm(width), "patch_merger.merging_layer": Linear(merged, width)}
    if kind == "vipllava":
        before = {"projector_layernorm": layer_norm(features)}
    bias = kind == "vipllava" or config.bool("multimodal_projector_bias")
    towers: dict[str, Part] = {
        "model.image_newline": Tensor((hidden,), "param") if kind in NEWLINE else None,
        "model.vision_tower": tower(vision),
        "model.multi_modal_projector": after_tower(config, vision, {**before, **two_maps(features, hidden, bias)}),
        "model.vision_resampler": pooler(config, width) if kind == "llava_next_video" else None,
    }
    model = compose(config, text, towers, tied=tied_head(config, text, forwarded=kind in FORWARDED))
    if kind != "llava_next_video":
        return model
    return replace(model, parts=with_last(model.parts, ("model.vision_resampler", LM_HEAD)))


def pooler(config: Config, width: int) -> Block | None:
    """Return what shrinks video frames, if it has parameters: a convolution, instead of a mean or maximum."""
    if config.str("spatial_pool_mode") != "conv":
        return None
    stride, out = config.int("spatial_pool_stride"), config.optional_int("spatial_pool_out_channels") or width
    return Module({"pool": Conv(width, out, (stride, stride), bias=True)}, kind="projector")


def after_tower(config: Config, vision: Config, maps: Mapping[str, Part]) -> Block:
    """Return the projector, which knows of tiles where images are cut into them."""
    tiles = cut(config, vision) if config.model_type in PINPOINTS else None
    if not tiles:
        return FeatureProjector(maps, **taken(config))
    return TiledProjector(maps, **taken(config), tiles=tiles, videos=config.model_type != "llava_next")


def cut(config: Config, vision: Config) -> Tiles | None:
    """Return how images are cut up; None where the class could not put the pieces together, so that text is all it
    takes: sizes that are no whole tiles, a class token too many or too few, a tower that is none of images of one size.
    """
    if vision.model_type not in (CLIP, SIGLIP):
        return None
    side, most = vision.int("image_size"), "0"
    if config.model_type == "llava_onevision":
        most = config.str("vision_aspect_ratio").strip(ANYRES)
    pinpoints = config.list("image_grid_pinpoints") or PINPOINTS[config.model_type]
    sizes = [
        tuple(each) for each in pinpoints if isinstance(each, (list, tuple)) and len(each) == len(("height", "width"))
    ]
    whole = all(isinstance(each, int) and 0 < each <= MAX_SIZE and each % side == 0 for size in sizes for each in size)
    without = (vision.model_type == CLIP) == (config.str("vision_feature_select_strategy") == "default")
    if len(sizes) < len(pinpoints) or not whole or not without or not re.fullmatch(r"[0-9]{1,4}", most):
        return None
    return Tiles(tuple((a, b) for a, b in sizes), side, side // vision.int("patch_size"), int(most))


def feature_layers(config: Config, key: str) -> int:
    """Return how many layers of the tower are handed on side by side: one, or as many as are listed."""
    return len(config.list(key) or ()) if isinstance(config.get(key), (list, tuple)) else 1
