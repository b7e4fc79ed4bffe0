"""Vision-language models with a projector of their own: Gemma 3, PaliGemma, Idefics 3, InternVL, Llama 4 ...

Class defaults and structure: transformers 5.23, the models named by the types.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

from oomph.blocks.base import Block, Module, Part
from oomph.blocks.basic import Head, Linear, Norm
from oomph.blocks.vision import layer_norm
from oomph.config import Config
from oomph.families.common import with_head
from oomph.families.gemma import STYLE as PLUS_ONE
from oomph.families.multimodal import (
    GatedProjector,
    JoiningProjector,
    PoolingProjector,
    PromptProjector,
    ShufflingProjector,
    compose,
    projector,
    section,
    taken,
    text_model,
    tied_head,
    two_maps,
)
from oomph.families.towers import step3 as step3_tower
from oomph.families.towers import tower, two, typed_tower
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "gemma3": {"mm_tokens_per_image": 256, "tie_word_embeddings": True},
    "paligemma": {"projection_dim": 2048, "tie_word_embeddings": True},
    "aya_vision": {
        "downsample_factor": 2, "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
        "tie_word_embeddings": True,
    },
    "cohere2_vision": {
        "downsample_factor": 2, "alignment_intermediate_size": 36864, "tie_word_embeddings": True,
    },
    "lfm2_vl": {
        "projector_hidden_size": 2560, "projector_bias": True, "projector_use_layernorm": True,
        "downsample_factor": 2, "tie_word_embeddings": True,
    },
    "idefics3": {"scale_factor": 2, "tie_word_embeddings": False},
    "smolvlm": {"scale_factor": 2, "tie_word_embeddings": False},
    "internvl": {"downsample_ratio": 0.5, "vision_feature_layer": -1, "tie_word_embeddings": True},
    "llama4": {},
    "kimi_k25": {"projection_hidden_size": 1152, "tie_word_embeddings": True},
    "minimax_m3_vl": {"projector_hidden_size": 6144, "tie_word_embeddings": False},
    "step3p7": {"projector_bias": False},
}  # fmt: skip

ALIASES: dict[str, dict[str, tuple[str, ...]]] = {"lfm2_vl": {"tie_word_embeddings": ("tie_embedding",)}}

TEXT = {
    "gemma3": "gemma3_text", "paligemma": "gemma", "aya_vision": "cohere2", "cohere2_vision": "cohere2",
    "idefics3": "llama", "smolvlm": "llama", "internvl": "qwen2", "llama4": "llama4_text",
    "lfm2_vl": "lfm2", "kimi_k25": "deepseek_v3", "minimax_m3_vl": "minimax_m3_vl_text", "step3p7": "step3p5",
}  # fmt: skip
VISION = {
    "idefics3": "idefics3_vision", "smolvlm": "smolvlm_vision", "internvl": "internvl_vision",
    "llama4": "llama4_vision_model", "kimi_k25": "kimi_k25_vision", "minimax_m3_vl": "minimax_m3_vl_vision",
    "step3p7": "step3p5_vision",
}  # fmt: skip
# Those not in VISION build whatever tower the file names, one of these if it names none.
SIGLIP, SIGLIP2 = "siglip_vision_model", "siglip2_vision_model"
FIXED_TEXT = {"gemma3", "llama4", "minimax_m3_vl", "step3p7"}

# What the class takes when there is no vision_config at all.
VISION_INIT: dict[str, dict[str, Any]] = {
    "paligemma": {
        "intermediate_size": 4096, "hidden_size": 1152, "patch_size": 14, "image_size": 224,
        "num_hidden_layers": 27, "num_attention_heads": 16, "vision_use_head": False,
    },
    "aya_vision": {
        "hidden_size": 1152, "intermediate_size": 4304, "patch_size": 14, "image_size": 384,
        "num_hidden_layers": 26, "num_attention_heads": 14, "vision_use_head": False,
    },
    "cohere2_vision": {
        "hidden_size": 1152, "intermediate_size": 3072, "image_size": 512, "num_hidden_layers": 27,
        "num_attention_heads": 12,
    },
}  # fmt: skip


def build(config: Config) -> Model:
    """Return tower, projector and decoder, each under its class's name."""
    kind = config.model_type
    # Kimi's own class calls its DeepSeek-V3 decoder kimi_k2.
    fixed = kind in FIXED_TEXT or config.sub("text_config").model_type == "kimi_k2"
    text = text_model(config, TEXT[kind], fixed=fixed, flat=kind == "step3p7")
    vision = section(config, "vision_config", VISION_INIT.get(kind))
    vision = typed_tower(vision, VISION.get(kind, SIGLIP2 if kind == "lfm2_vl" else SIGLIP), fixed=kind in VISION)
    parts = {"tower": tower(vision), "projector": PROJECTORS[kind](config, vision, text.hidden_size)}
    names = NAMES.get(kind, ("model.vision_tower", "model.multi_modal_projector"))
    towers = dict(zip(names, parts.values(), strict=True))
    if kind == "llama4":
        head, prefix = "language_model.lm_head", "language_model.model"
        return compose(config, text, towers, prefix=prefix, head=head, tied=text.tied)
    prefix = "model.text_model" if kind in ("idefics3", "smolvlm") else "model.language_model"
    model = compose(
        config, text, towers, prefix=prefix, tied=tied_head(config, text, forwarded=kind == "minimax_m3_vl")
    )
    inner = text.parts.get("lm_head")
    if kind == "paligemma" and isinstance(inner, Head):
        return with_head(model, softcap=inner.softcap)
    # These classes leave out the factor of logits that Command R's own class has.
    return with_head(model, scaled=False) if kind in ("aya_vision", "cohere2_vision") else model


NAMES = {
    "idefics3": ("model.vision_model", "model.connector"),
    "smolvlm": ("model.vision_model", "model.connector"),
    "llama4": ("vision_model", "multi_modal_projector"),
    "kimi_k25": ("model.vision_tower", "model.mm_projector"),
    "step3p7": ("model.vision_model", "model.multi_modal_projector"),
}


def gemma3(config: Config, vision: Config, hidden: int) -> Module:
    """Pooled patches, a norm and one bare map, stored (in, out)."""
    width, patches = vision.int("hidden_size"), vision.int("image_size") // vision.int("patch_size")
    side = isqrt(config.int("mm_tokens_per_image"))
    maps: dict[str, Part] = {
        "mm_input_projection_weight": Tensor((width, hidden), "linear"),
        "mm_soft_emb_norm": Norm(width, style=PLUS_ONE),
    }
    return PoolingProjector(maps, patches=patches, side=side)


def paligemma(config: Config, vision: Config, hidden: int) -> Module:
    """One map, onto projection_dim."""
    return PromptProjector({"linear": Linear(vision.int("hidden_size"), config.int("projection_dim"), bias=True)})


def aya(config: Config, vision: Config, hidden: int) -> Module:
    """Joined patches, a norm, and a SwiGLU whose gate and up maps are one; Command-A has no norm."""
    joined = vision.int("hidden_size") * config.int("downsample_factor") ** 2
    inner = config.optional_int("alignment_intermediate_size") or hidden
    maps: dict[str, Part] = {
        "linear_1": Linear(joined, inner, bias=True),
        "linear_2": Linear(inner // 2, hidden, bias=True),
    }
    factor = config.int("downsample_factor")
    if config.model_type == "aya_vision":
        return GatedProjector({"layernorm": layer_norm(joined), **maps}, **taken(config), factor=factor)
    return GatedProjector(maps, layer=1, class_token=True, factor=factor, normed=True)


def lfm2(config: Config, vision: Config, hidden: int) -> Module:
    """Joined patches, a norm if wanted, and two maps through a width of its own."""
    joined, inner = (
        vision.int("hidden_size") * config.int("downsample_factor") ** 2,
        config.int("projector_hidden_size"),
    )
    bias = config.bool("projector_bias")
    return projector(
        layer_norm=layer_norm(joined) if config.bool("projector_use_layernorm") else None,
        linear_1=Linear(joined, inner, bias),
        linear_2=Linear(inner, hidden, bias),
    )


def idefics3(config: Config, vision: Config, hidden: int) -> Module:
    """Joined patches and one map."""
    scale = config.int("scale_factor")
    maps = Module({"proj": Linear(vision.int("hidden_size") * scale**2, hidden)})
    return JoiningProjector({"modality_projection": maps}, scale=scale, leaves_one=config.model_type == "smolvlm")


def internvl(config: Config, vision: Config, hidden: int) -> Module:
    """Joined patches, a norm and two maps."""
    ratio = config.float("downsample_ratio")
    if not 0 < ratio <= 1 or 1 / ratio > 2**10:
        raise config.error("downsample_ratio", "is not a share of the patches")
    joined = vision.int("hidden_size") * int(1 / ratio) ** 2
    maps: dict[str, Part] = {"layer_norm": layer_norm(joined), **two_maps(joined, hidden)}
    return ShufflingProjector(maps, **taken(config), ratio=ratio)


def llama4(config: Config, vision: Config, hidden: int) -> Module:
    """One map on the adapter's output."""
    return projector(linear_1=Linear(vision.int("vision_output_dim"), hidden))


def kimi(config: Config, vision: Config, hidden: int) -> Module:
    """A norm, joined patches and two maps."""
    rows, columns = two(vision, "merge_kernel_size")
    joined = vision.int("hidden_size") * rows * columns
    return projector(
        pre_norm=layer_norm(config.int("projection_hidden_size")),
        in_proj=Linear(joined, joined, bias=True),
        out_proj=Linear(joined, hidden, bias=True),
    )


def minimax(config: Config, vision: Config, hidden: int) -> Module:
    """Two maps per patch, patches joined, two maps more."""
    inner, joined = config.int("projector_hidden_size"), hidden * vision.int("spatial_merge_size") ** 2
    return projector(
        linear_1=Linear(vision.int("hidden_size"), inner, bias=True),
        linear_2=Linear(inner, hidden, bias=True),
        merge_linear_1=Linear(joined, inner, bias=True),
        merge_linear_2=Linear(inner, hidden, bias=True),
    )


def step3(config: Config, vision: Config, hidden: int) -> Linear:
    """One map on the tower's downsampled features."""
    return Linear(step3_tower(vision).out_size, hidden, config.bool("projector_bias"), kind="projector")


PROJECTORS: dict[str, Callable[[Config, Config, int], Block]] = {
    "gemma3": gemma3, "paligemma": paligemma, "aya_vision": aya, "cohere2_vision": aya, "lfm2_vl": lfm2,
    "idefics3": idefics3, "smolvlm": idefics3, "internvl": internvl, "llama4": llama4, "kimi_k25": kimi,
    "minimax_m3_vl": minimax, "step3p7": step3,
}  # fmt: skip
