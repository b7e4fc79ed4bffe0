"""Qwen's and GLM's vision-language models, and the thinkers of Qwen's omni models.

The tower ends in its own merger, so there is no projector. Qwen2-VL and Qwen2.5-VL were published flat: the
text model's keys at the top of the file. Class defaults and structure: transformers 5.23, the models named by
the types.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Module, Part, Stack
from oomph.blocks.vision_native import Qwen3Vision
from oomph.config import Config
from oomph.families.multimodal import LM_HEAD, compose, section, text_model, tied_head
from oomph.families.towers import tower, typed_tower
from oomph.model import Model

UNTIED: dict[str, Any] = {"tie_word_embeddings": False}
TYPES: dict[str, dict[str, Any]] = {
    "qwen2_vl": UNTIED, "qwen2_5_vl": UNTIED, "qwen3_vl": UNTIED, "qwen3_vl_moe": UNTIED, "qwen3_5": UNTIED,
    "qwen3_5_moe": UNTIED, "glm4v": UNTIED, "glm4v_moe": UNTIED, "glm46v": UNTIED, "qwen2_5_omni_thinker": UNTIED,
    "qwen3_omni_moe_thinker": UNTIED, "qwen2_5_omni": {}, "qwen3_omni_moe": {},
}  # fmt: skip

FLAT = {"qwen2_vl", "qwen2_5_vl"}
# A tied text model ties the whole (older files say so only there).
FORWARDED = {"qwen2_vl", "qwen2_5_vl", "glm4v", "glm4v_moe"}


def build(config: Config) -> Model:
    """Return tower and decoder; an omni model by its thinker."""
    kind = config.model_type
    if kind in ("qwen2_5_omni", "qwen3_omni_moe"):
        return omni(config)
    if kind.endswith("_thinker"):
        return thinker(config, kind, "")
    # GLM-4.6V takes the tower and decoder that the file names, GLM-4V's if it names none.
    fixed, base = kind != "glm46v", "glm4v" if kind == "glm46v" else kind
    text = text_model(config, f"{base}_text", fixed=fixed, flat=kind in FLAT)
    vision = typed_tower(section(config, "vision_config"), f"{base}_vision", fixed=fixed)
    tied, visual = tied_head(config, text, forwarded=kind in FORWARDED), tower(vision)
    if isinstance(visual, Qwen3Vision):
        text = with_first_apart(text, len(visual.deep_layers))
    return compose(config, text, {"model.visual": visual}, tied=tied)


def with_first_apart(text: Model, count: int) -> Model:
    """Return a decoder whose first layers, to which features of the tower are added, are none that repeat."""
    path = "model.layers"
    stack = text.parts[path]
    if not isinstance(stack, Stack) or not stack.layers:
        return text
    kinds = {id(layer): replace(layer) for layer in stack.layers if isinstance(layer, Module)}
    first = [kinds.get(id(layer), layer) for layer in stack.layers[:count]]
    return replace(text, parts={**text.parts, path: replace(stack, layers=(*first, *stack.layers[count:]))})


def omni(config: Config) -> Model:
    """Return the thinker inside an omni model: what hears, sees and writes."""
    kind = f"{config.model_type}_thinker"
    nested = config.sub("thinker_config", TYPES[kind])
    return thinker(nested, kind, "thinker.", "The talker and its vocoder, which speak, are not counted.")


def thinker(config: Config, kind: str, prefix: str, *notes: str) -> Model:
    """Return audio tower, vision tower and decoder under `prefix`."""
    base = kind.removesuffix("_thinker")
    text = text_model(config, f"{base}_text", fixed=True)
    audio = typed_tower(section(config, "audio_config"), f"{base}_audio_encoder", fixed=True)
    vision = typed_tower(section(config, "vision_config"), f"{base}_vision_encoder", fixed=True)
    towers: dict[str, Part] = {
        f"{prefix}model.audio_tower": tower(audio),
        f"{prefix}model.visual": tower(vision),
    }
    return compose(
        config, text, towers, prefix=f"{prefix}model.language_model", head=f"{prefix}{LM_HEAD}",
        tied=tied_head(config, text, forwarded=False), notes=notes,
    )  # fmt: skip
