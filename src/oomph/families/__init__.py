"""From a config.json to a Model. One file per family; this page only knows which file knows which type.

A family file holds `TYPES`: model_type -> the defaults of that type's configuration class (what transformers
takes for an absent key), optionally `ALIASES`: model_type -> {key: other spellings}, and `build(config)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

from oomph import dtypes
from oomph.config import Config
from oomph.errors import ConfigError, UnsupportedError, close_matches
from oomph.families.registry import FAMILIES
from oomph.model import Model


def supported() -> list[str]:
    """Return every model_type oomph can build from a config alone."""
    return sorted(FAMILIES)


def class_defaults(model_type: str) -> dict[str, Any]:
    """Return the whole config of a type that spells nothing out: what its class takes.

    >>> class_defaults("gpt2")["hidden_size"]
    768
    """
    family = import_module(f"oomph.families.{FAMILIES[model_type]}")
    return {**family.TYPES[model_type], "model_type": model_type}


def typed(config: Config, model_type: str) -> Config:
    """Return the same config read with the defaults and aliases of `model_type`."""
    if model_type not in FAMILIES:
        raise UnsupportedError(
            f"oomph does not know the architecture {model_type[:80]!r}.",
            close_matches(model_type, FAMILIES)
            or 'With pip install "oomph[trace]" it is counted from the real transformers class if there is one; '
            "a folder or repository with weights is weighed from its headers.",
        )
    family = import_module(f"oomph.families.{FAMILIES[model_type]}")
    raw = dict(config.raw)
    raw["model_type"] = model_type
    aliases = getattr(family, "ALIASES", {}).get(model_type)
    return Config(raw, family.TYPES[model_type], aliases, config.where, config.nested, config.assumed)


def build(config: Config, model_type: str = "") -> Model:
    """Return the Model of a (possibly nested) config; `model_type` is for one that does not say its own."""
    model_type = config.model_type or model_type
    if not model_type:
        raise ConfigError(f"{config.where} has no model_type.", "Add it: it names the architecture, e.g. llama.")
    config = typed(config, model_type)
    model: Model = import_module(f"oomph.families.{FAMILIES[model_type]}").build(config)
    return replace(model, model_type=model_type)


def model_from_config(raw: Mapping[str, Any], name: str = "") -> Model:
    """Return the Model that a parsed config.json describes."""
    config = Config(raw)
    model = build(config)
    return replace(
        model, name=name, model_type=config.model_type, dtype=stored_dtype(raw), assumed=dict(config.assumed)
    )


def stored_dtype(raw: Mapping[str, Any]) -> str | None:
    """Return the dtype a config says its weights are stored in; nested configs may hold it."""
    for section in (raw, *(raw.get(key) for key in ("text_config", "llm_config", "thinker_config"))):
        if isinstance(section, Mapping):
            said = section.get("torch_dtype", section.get("dtype"))
            if isinstance(said, str) and dtypes.canonical(said):
                return dtypes.canonical(said)
    return None
