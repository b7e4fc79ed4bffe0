"""LLaVA and its kin: any ViT, two linear maps, any decoder.

Class defaults and structure: transformers 5.23, models/llava, llava_next, llava_next_video,
llava_onevision, vipllava, mistral3.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.base import Block, Module, Part
from oomph.blocks.basic import Conv, Linear, Norm
from oomph.blocks.vision import layer_norm
from oomph.config import Config
from oomph.families.multimodal import FeatureProjector, compose, section, text_model, tied_head, two_maps
from oomph.families.towers import tower, typed_tower
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "llava": {"multimodal_projector_bias": True, "vision_feature_layer": -2, "tie_word_embeddings": False},
    "llava_next": {"multimodal_projector_bias": True, "vision_feature_layer": -2, "tie_word_embeddings": False},
    "llava_next_video": {
        "multimodal_projector_bias": True, "vision_feature_layer": -2, "spatial_pool_mode": "average",
        "spatial_pool_stride": 2, "tie_word_embeddings": False,
    },
    "llava_onevision": {"multimodal_projector_bias": True, "vision_feature_layer": -1, "tie_word_embeddings": False},
    "vipllava": {"vision_feature_layers": (-2, -5, -8, -11, 6), "tie_word_embeddings": False},
    "mistral3": {
        "multimodal_projector_bias": False, "vision_feature_layer": -1, "spatial_merge_size": 2,
        "tie_word_embeddings": True,
    },
}  # fmt: skip

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
NEWLINE = {"llava_next", "llava_next_video", "llava_onevision"}  # a learned vector ends each row of patches


def build(config: Config) -> Model:
    """Return tower, projector (Mistral 3: with a patch merger) and decoder."""
    kind = config.model_type
    text = text_model(config, TEXT.get(kind, "llama"))
    vision = section(config, "vision_config", VISION_INIT[kind])
    vision = typed_tower(vision, VISION.get(kind, "clip_vision_model"))
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
        "model.vision_tower": tower(vision),
        "model.multi_modal_projector": FeatureProjector(
            {**before, **two_maps(features, hidden, bias)}, **taken(config)
        ),
        "model.image_newline": Tensor((hidden,), "param") if kind in NEWLINE else None,
        "model.vision_resampler": pooler(config, width) if kind == "llava_next_video" else None,
    }
    return compose(config, text, towers, tied=tied_head(config, text, forwarded=kind in FORWARDED))


def pooler(config: Config, width: int) -> Block | None:
    """Return what shrinks video frames, if it has parameters: a convolution, instead of a mean or maximum."""
    if config.str("spatial_pool_mode") != "conv":
        return None
    stride, out = config.int("spatial_pool_stride"), config.optional_int("spatial_pool_out_channels") or width
    return Module({"pool": Conv(width, out, (stride, stride), bias=True)}, kind="projector")


def taken(config: Config) -> dict[str, Any]:
    """Return which features the projector takes, and its activation."""
    layer = config.get("vision_feature_layer")
    return {
        "layer": -layer if isinstance(layer, int) and layer < 0 else 0,
        "class_token": config.str("vision_feature_select_strategy", "default") == "full",
        "activation": config.str("projector_hidden_act", "gelu"),
        "merge": config.int("spatial_merge_size") if config.model_type == "mistral3" else 1,
    }


def feature_layers(config: Config, key: str) -> int:
    """Return how many layers of the tower are handed on side by side: one, or as many as are listed."""
    return len(config.list(key) or ()) if isinstance(config.get(key), (list, tuple)) else 1
