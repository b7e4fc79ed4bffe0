"""A framework's config file as fields of a job: recognised by its keys; what it says that is not read is listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oomph.errors import ConfigError
from oomph.runtimes import keys
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


PROGRAMS = {"accelerate": "trainer", "ppo": "trl"}  # whose config file it is, where that is not its name


def load(path: Path) -> ConfigFile:
    """Return what a file says; raises ConfigError for one of no known framework."""
    return read(read_mapping(path), path.name)


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
    readers, harmless = keys.READERS[name], keys.HARMLESS | keys.HARMLESS_OF.get(name, frozenset())
    said = Said(where, flat)
    fields: dict[str, Any] = {}
    for key, reader in readers.items():
        if key in flat and flat[key] is not None:
            fields |= reader(said, key)
    unknown = [key for key in flat if key not in readers and key not in harmless and flat[key] is not None]
    model = flat.get(keys.MODEL_KEYS.get(name, ""))
    runtime = PROGRAMS.get(name, name)
    return ConfigFile(runtime, fields, model if isinstance(model, str) else None, tuple(sorted(unknown)))


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
