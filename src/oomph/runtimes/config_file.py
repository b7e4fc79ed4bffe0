"""A framework's config file as fields of a job: recognised by its keys; what it says that is not read is listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oomph.errors import ConfigError, UnsupportedError
from oomph.runtimes import deepspeed, harmless_keys, keys, litgpt_keys, torchtune_keys
from oomph.runtimes.said import Said
from oomph.runtimes.yaml_text import read_mapping


@dataclass(frozen=True)
class ConfigFile:
    """What a config file says: its framework, fields of a job, the model, and keys that nothing here reads.

    `notes` are of keys whose effect is not counted; `untold` is what a file leaves open that nobody may guess.
    """

    runtime: str
    fields: Mapping[str, Any]
    model: str | None
    unknown: tuple[str, ...]
    notes: tuple[str, ...] = ()
    untold: str = ""


# The first whose keys are all there; the last is what TrainingArguments are told by.
KNOWN_BY: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("accelerate", ("compute_environment",)),
    ("deepspeed", ("zero_optimization",)),
    ("axolotl", ("base_model", "micro_batch_size")),
    ("llama-factory", ("finetuning_type",)),
    *(("swift", ("model", key)) for key in ("tuner_type", "train_type", "rlhf_type")),
    ("torchtune", ("tokenizer", "model", "optimizer", "loss")),
    ("litgpt", ("checkpoint_dir", "train")),
    ("ppo", ("reward_model_path", "per_device_train_batch_size")),
    ("trl", ("max_length",)),
    ("trl", ("max_seq_length",)),
    ("trl", ("max_completion_length",)),
    ("trl", ("max_prompt_length",)),
    ("trl", ("reward_funcs",)),
    ("trl", ("dataset_mixture",)),
    ("trl", ("dataset_name", "per_device_train_batch_size")),
    ("trainer", ("per_device_train_batch_size",)),
    ("trainer", ("output_dir",)),
)

# Of configs with other keys than those that train: what they are, and the keys they are told by.
OTHERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("of LLaMA-Factory's v1 trainer", ("model", "train_dataset")),
    ("of LLaMA-Factory's that trains nothing", ("export_dir", "model_name_or_path")),
    ("of LLaMA-Factory's that trains nothing", ("infer_backend", "model_name_or_path")),
    ("of LLaMA-Factory's v1 trainer", ("model", "model_class")),
    ("a recipe of torchtune's that fine-tunes no model on labels", ("checkpointer",)),
    ("a recipe of torchtune's that fine-tunes no model on labels", ("orchestration", "training")),
    ("of LitGPT's pretraining", ("model_name", "train", "eval")),
)
# What decides of a method, in the words of any program: a file in which such a key is not read is of another one.
DECIDING = frozenset({
    "adapter", "finetuning_type", "load_in_4bit", "load_in_8bit", "lora_r", "lora_rank", "quant_bits",
    "quantization_bit", "train_type", "tuner_type", "use_peft",
})  # fmt: skip
# Keys of more than one of TRL's trainers, of which none is named.
PREFERENCES = ("beta", "max_prompt_length")


MODELS = {"torchtune": torchtune_keys.model_of, "litgpt": litgpt_keys.model_of}  # told by more than a key's value
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
    other = next((what for what, wanted in OTHERS if all(key in config for key in wanted)), None)
    if other and name != "torchtune":
        raise UnsupportedError(f"{where} is {other}, which oomph does not read.", "Type the job: oomph train --help.")
    if name is None:
        known = "; ".join(f"{name}: {', '.join(wanted)}" for name, wanted in KNOWN_BY)
        raise ConfigError(f"{where} has the keys of no framework that oomph reads.", f"Told by {known}.")
    flat = _flat(name, config)
    said = Said(where, flat)
    fields: dict[str, Any] = {}
    for key, reader in keys.READERS[name].items():
        if key in flat and flat[key] is not None:
            fields |= reader(said, key)
    fields |= _of_deepspeed(name, flat, where)
    model = MODELS[name](flat) if name in MODELS else flat.get(keys.MODEL_KEYS.get(name, ""))
    unread = _unread(name, flat)
    decides = next((key for key in unread if key in DECIDING and flat[key] is not False), None)
    if decides is not None:
        fix = "Type what it says, --method lora for one, and leave it out of the file."
        raise UnsupportedError(f"{where} is read as {name}'s, which knows no {decides}.", fix)
    return ConfigFile(
        PROGRAMS.get(name, name),
        fields,
        model if isinstance(model, str) else None,
        unread,
        tuple(f"{key}: {why}." for key, why in harmless_keys.NOTES.get(name, {}).items() if flat.get(key)),
        _untold(name, flat, fields),
    )


def _flat(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's keys on one level: some are nested, TRL's hold what from_pretrained is given."""
    if name == "torchtune":
        return flattened(config)
    if name == "litgpt":
        found = flattened(config)
        return {**found, "precision": found.get("precision") or litgpt_keys.USUALLY}
    loading = config.get("model_init_kwargs") if name == "trl" else None
    if not isinstance(loading, Mapping):
        return dict(config)
    rest = {key: value for key, value in config.items() if key != "model_init_kwargs"}
    return {**{str(key): value for key, value in loading.items()}, **rest}


def _unread(name: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    known = harmless_keys.HARMLESS.union(
        keys.READERS[name], harmless_keys.HARMLESS_OF.get(name, ()), harmless_keys.NOTES.get(name, ())
    )
    sections = harmless_keys.HARMLESS_SECTIONS.get(name, ())
    return tuple(
        sorted(
            key
            for key, value in config.items()
            if value is not None and key not in known and not key.startswith(sections)
        )
    )


def _untold(name: str, config: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    found = [key for key in PREFERENCES if config.get(key) is not None] if name == "trl" else []
    return f"{' and '.join(found)} may be of several of TRL's trainers." if found and "objective" not in fields else ""


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
