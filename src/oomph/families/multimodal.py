"""A text model with towers beside it: how the parts of both are named and who decides on a tied head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from oomph.blocks.base import Module, Part, Parts
from oomph.blocks.basic import Head, Linear
from oomph.config import Config
from oomph.errors import ConfigError
from oomph.families import build
from oomph.families.common import output_head
from oomph.model import Model
from oomph.tiles import Tiles

LM_HEAD = "lm_head"


def text_model(
    config: Config, default_type: str, *, fixed: bool = False, flat: bool = False, init: Mapping[str, Any] | None = None
) -> Model:
    """Return the language model inside a multimodal config.

    `default_type` is its model_type when the file does not say, and whatever it says when `fixed` (the class
    does not ask). `flat`: files of this type may have the text model's keys at the top instead of in
    text_config. `init` is what the class fills in where text_config is silent.
    """
    key = "text_config"
    nested = config.get(key) is not None
    if not nested and not (flat and config.has("hidden_size")):
        raise ConfigError(f"{config.where} has no {key}.", "Add it, or point oomph at the model's own config.json.")
    raw: dict[str, Any] = {**(init or {}), **(config.section(key) if nested else config.raw)}
    raw.pop("architectures", None)  # the class around it decides what stands on top
    if fixed or not nested:
        raw["model_type"] = default_type
    where = config.sub(key).where if nested else config.where
    return build(Config(raw, where=where, nested=nested, assumed=config.assumed), default_type)


def compose(
    config: Config,
    text: Model,
    towers: Parts,
    *,
    prefix: str = "model.language_model",
    head: str = LM_HEAD,
    tied: bool = False,
    notes: tuple[str, ...] = (),
) -> Model:
    """Return the whole model: `towers`, then the text model's parts under `prefix`, then the head.

    Parts of the text model that are not under its own "model." (multi-token prediction) keep their names.
    """
    parts: dict[str, Part] = dict(towers)
    for name, part in text.parts.items():
        if not isinstance(part, Head):
            parts[f"{prefix}.{name.removeprefix('model.')}" if name.startswith("model.") else name] = part
    top = output_head(config, text.hidden_size, text.vocab_size, tied, head, bias=False)
    own = text.parts.get(LM_HEAD)
    if isinstance(own, Head) and isinstance(top.get(head), Head):
        top[head] = replace(own, tied=tied)
    parts.update(top)
    return Model(
        parts=parts,
        hidden_size=text.hidden_size,
        num_layers=text.num_layers,
        vocab_size=text.vocab_size,
        tied=tied,
        context_length=text.context_length,
        text_type=text.model_type,
        notes=(*text.notes, *notes),
        unplayed=text.unplayed,
    )


def with_last(parts: Parts, last: tuple[str, ...]) -> Parts:
    """Return parts in their order, but these at the end."""
    return {name: parts[name] for name in sorted(parts, key=lambda name: last.index(name) + 1 if name in last else 0)}


def tied_head(config: Config, text: Model, *, forwarded: bool) -> bool:
    """Tell whether the head is tied: the outer config decides; `forwarded` when a tied text model decides too."""
    return config.bool("tie_word_embeddings") or (forwarded and text.tied)


def section(config: Config, key: str, init: Mapping[str, Any] | None = None) -> Config:
    """Return the nested config under `key`; `init` is what the outer class takes when there is none."""
    if config.get(key) is None and init:
        return Config({}, init, where=config.sub(key).where, nested=True, assumed=config.assumed)
    return config.sub(key)


def projector(**maps: Part) -> Module:
    """Return named parts counted as the projector between a tower and the text model."""
    return Module(maps, kind="projector")


@dataclass(frozen=True, eq=False)
class FeatureProjector(Module):
    """LLaVA's projector, and which of the tower's features it takes: those of one layer, counted from the last (1), the
    class token's among them or not. `layer` 0 are several layers side by side. `merge` squared of them become one
    (Mistral 3).
    """

    kind: str = "projector"
    layer: int = 2
    class_token: bool = False
    activation: str = "gelu"
    merge: int = 1


@dataclass(frozen=True, eq=False)
class TiledProjector(FeatureProjector):
    """The same of LLaVA-NeXT and LLaVA-OneVision, and how they cut up an image. With `videos` the class looks for these
    too.
    """

    tiles: Tiles | None = None
    videos: bool = False


@dataclass(frozen=True, eq=False)
class GatedProjector(FeatureProjector):
    """Aya Vision's projector, which joins `factor` times `factor` patches to a token and maps them by a gated MLP, and
    Command A Vision's, of features that are normed.
    """

    factor: int = 2
    normed: bool = False


@dataclass(frozen=True, eq=False)
class ShufflingProjector(FeatureProjector):
    """InternVL's projector, which makes of an image's patches a `ratio` as many a side."""

    ratio: float = 0.5


@dataclass(frozen=True, eq=False)
class PoolingProjector(Module):
    """Gemma 3's projector, which makes `side` times `side` tokens of an image of `patches` a side."""

    kind: str = "projector"
    patches: int = 1
    side: int = 1


@dataclass(frozen=True, eq=False)
class JoiningProjector(Module):
    """Idefics 3's projector, which joins `scale` times `scale` patches to a token. SmolVLM's model `leaves_one` image
    where all are padding.
    """

    kind: str = "projector"
    scale: int = 2
    leaves_one: bool = False


@dataclass(frozen=True, eq=False)
class PromptProjector(Module):
    """PaliGemma's projector: one map; its model is told which tokens are a prompt's, images among them."""

    kind: str = "projector"


def two_maps(inputs: int, outputs: int, bias: bool = True) -> dict[str, Part]:
    """Return LLaVA's projector: two maps with an activation between."""
    return {"linear_1": Linear(inputs, outputs, bias), "linear_2": Linear(outputs, outputs, bias)}


def taken(config: Config) -> dict[str, Any]:
    """Return which features the projector takes, and its activation."""
    layer = config.get("vision_feature_layer")
    return {
        "layer": -layer if isinstance(layer, int) and layer < 0 else 0,
        "class_token": config.str("vision_feature_select_strategy", "default") == "full",
        "activation": config.str("projector_hidden_act", "gelu"),
        "merge": config.int("spatial_merge_size") if config.model_type == "mistral3" else 1,
    }
