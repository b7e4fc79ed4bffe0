"""A framework's config file as fields of a job: recognised by its keys; what it says that is not read is listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oomph.errors import ConfigError
from oomph.runtimes import deepspeed, keys
from oomph.runtimes.harmless_keys import HARMLESS, HARMLESS_OF
from oomph.runtimes.said import Said
from oomph.runtimes.yaml_text import read_mapping


@dataclass(frozen=True)
class ConfigFile:
    """What a config file says: its framework, fields of a job, the model, and keys that nothing here reads."""

    runtime: str
    fields: Mapping[str, Any]
    model: str | None
    unknown: tuple[str, ...]


# The first whose keys are all there; the last is what TrainingArguments are told by.
KNOWN_BY: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("accelerate", ("compute_environment",)),
    ("deepspeed", ("zero_optimization",)),
    ("axolotl", ("base_model", "micro_batch_size")),
    ("llama-factory", ("finetuning_type",)),
    ("torchtune", ("tokenizer", "model", "optimizer", "loss")),
    ("ppo", ("reward_model_path", "per_device_train_batch_size")),
    ("trl", ("max_length",)),
    ("trl", ("max_seq_length",)),
    ("trl", ("dataset_name", "per_device_train_batch_size")),
    ("trainer", ("per_device_train_batch_size",)),
    ("trainer", ("output_dir",)),
)


PROGRAMS = {
    "accelerate": "trainer",
    "deepspeed": "trainer",
    "ppo": "trl",
}  # whose config file it is, where that is not its name


def load(path: Path) -> ConfigFile:
    """Return what a file says, and a config of DeepSpeed's that it names; raises ConfigError for one of no known
    framework.
    """
    config = read_mapping(path)
    inner = config.get("deepspeed_config")
    names = {
        "deepspeed": config.get("deepspeed"),
        "deepspeed_config": inner.get("deepspeed_config_file") if isinstance(inner, Mapping) else None,
    }
    found = {key: beside for key, name in names.items() if (beside := _beside(path, name)) is not None}
    return read({**config, **found}, path.name)


def _beside(path: Path, name: Any) -> dict[str, Any] | None:
    """Return the mapping in a file that a config names: below its folder or, as programs do, below this one."""
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    there = (folder / name for folder in (path.parent, Path()))
    return next((read_mapping(one) for one in there if name and one.is_file()), None)


def read(config: Mapping[str, Any], where: str) -> ConfigFile:
    """Return what a config says.

    >>> found = read({"per_device_train_batch_size": 4, "bf16": True, "shiny": 1}, "args.json")
    >>> found.runtime, found.fields["batch"], found.fields["precision"], found.unknown
    ('trainer', 4, 'amp-bf16', ('shiny',))
    """
    name = next((name for name, wanted in KNOWN_BY if all(key in config for key in wanted)), None)
    if name is None:
        known = "; ".join(f"{name}: {', '.join(wanted)}" for name, wanted in KNOWN_BY)
        raise ConfigError(f"{where} has the keys of no framework that oomph reads.", f"Told by {known}.")
    flat = flattened(config) if name == "torchtune" else dict(config)
    if name == "trl" and isinstance(flat.get("model_init_kwargs"), Mapping):
        flat = {**flat.pop("model_init_kwargs"), **flat}
    readers, harmless = keys.READERS[name], HARMLESS | HARMLESS_OF.get(name, frozenset())
    said = Said(where, flat)
    fields: dict[str, Any] = {}
    for key, reader in readers.items():
        if key in flat and flat[key] is not None:
            fields |= reader(said, key)
    fields |= _of_deepspeed(name, flat, where)
    unknown = [key for key in flat if key not in readers and key not in harmless and flat[key] is not None]
    model = flat.get(keys.MODEL_KEYS.get(name, ""))
    runtime = PROGRAMS.get(name, name)
    return ConfigFile(runtime, fields, model if isinstance(model, str) else None, tuple(sorted(unknown)))


def _of_deepspeed(name: str, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what a config says of DeepSpeed, which casts and wraps the model whatever else is said."""
    if name == "deepspeed":
        return deepspeed.fields_of(config, where)
    given = config.get("deepspeed_config" if name == "accelerate" else "deepspeed")
    if not isinstance(given, Mapping) or not given:
        return {}
    if "zero_optimization" in given:
        return deepspeed.fields_of(given, where, config)
    precision = config.get("mixed_precision")
    return (
        deepspeed.of_accelerate(given, where, precision) if name == "accelerate" else deepspeed.fields_of(given, where)
    )


def flattened(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested mappings as one, keys joined with dots.

    >>> flattened({"model": {"lora_rank": 8}})
    {'model.lora_rank': 8}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{before}{key}"
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{path}.")
        else:
            found[path] = value
    return found
