"""DeepSpeed's config as fields of a job: inline or in a file of its own, with "auto" as the HF Trainer fills it in.

What DeepSpeed does with a model on one GPU is in optimizers/deepspeed.py. Source: DeepSpeed 0.19, runtime/config.py and
runtime/zero/config.py; transformers 5.23, integrations/deepspeed.py, HfTrainerDeepSpeedConfig; accelerate 1.15,
utils/dataclasses.py, DeepSpeedPlugin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from oomph.errors import ConfigError, UnsupportedError
from oomph.runtimes.said import MOST, Said, shown

AUTO = "auto"
BUCKET = 500_000_000  # DeepSpeed's own
HIDDEN_SQUARED = 0  # what the HF Trainer puts for "auto", as a job says it
DTYPES = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "fp16"}  # sections, and the dtype that each turns on
OF_WEIGHTS = 3  # the stage that divides them too
ADAM = ("adam", "adamw")
NOT_PLAYED = {
    "amp": "it is NVIDIA's Apex",
    "torch_autocast": "gradients then have dtypes of their own",
    "data_types": "gradients are then added up in another dtype",
    "communication_data_type": "gradients are then cast before they are reduced",
    "sparse_attention": "it is attention of another kind",
    "quantize_training": "weights are then quantised",
    "tensor_parallel": "it is of several GPUs",
}
EXPONENT = re.compile(r"\d{1,9}(\.\d{1,9})?[eE]\+?\d{1,2}")
OFF: tuple[Any, ...] = (None, False, {}, AUTO)


def fields_of(config: Mapping[str, Any], where: str, trainer: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a config of DeepSpeed's says; `trainer` are the arguments that "auto" stands for.

    >>> zero = {"stage": 2, "overlap_comm": True}
    >>> found = fields_of({"zero_optimization": zero, "bf16": {"enabled": True}}, "ds.json")
    >>> found["zero_stage"], found["zero_bucket"], found["zero_overlap"], found["precision"]
    (2, 500000000, True, 'bf16')
    """
    for key, why in NOT_PLAYED.items():
        section = config.get(key)
        off = isinstance(section, Mapping) and section.get("enabled", True) in (False, AUTO)
        if section not in OFF and not off:
            raise UnsupportedError(f"{where}: {key} is not modelled: {why}.", "Leave it out.")
    fields = {"autocast": False, "fp32_outputs": False, "adapter_dtype": "base"}
    return {**fields, **_precision(config, trainer or {}), **_batch(config, where), **_optimizer(config, where),
            **_zero(_section(config, "zero_optimization", where), where)}  # fmt: skip


def _section(config: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {key} is {shown(value)}.", "Give its keys and values.")
    return value


def _precision(config: Mapping[str, Any], trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dtype that all of the model is cast to; without one it stays in fp32."""
    asked = False
    for key, dtype in DTYPES.items():
        section = config.get(key)
        enabled = section.get("enabled", False) if isinstance(section, Mapping) else False
        if enabled is True or (enabled == AUTO and trainer.get(dtype) in (True, AUTO, "true")):
            return {"precision": dtype}
        asked = asked or enabled == AUTO
    return {} if asked and not trainer else {"precision": "fp32"}


def _batch(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return batch and accumulation, where they are numbers."""
    said = Said(where, config)
    names = {"train_micro_batch_size_per_gpu": "batch", "gradient_accumulation_steps": "accumulation"}
    return {field: said.whole(key) for key, field in names.items() if config.get(key) not in (None, AUTO)}


def _optimizer(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the optimizer that a config names: without one it is the Trainer's."""
    kind = _section(config, "optimizer", where).get("type")
    if kind is None:
        return {}
    if str(kind).lower() not in ADAM:
        raise UnsupportedError(f"{where}: DeepSpeed's {str(kind)[:40]} is not played.", "Take AdamW.")
    return {"optimizer": "adamw"}


def _zero(zero: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return stage, bucket, overlap and what is offloaded."""
    said = Said(where, zero)
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or stage not in (1, 2):
        words = "gathers parameters for each module" if stage == OF_WEIGHTS else "keeps other copies"
        raise UnsupportedError(f"{where}: ZeRO stage {shown(stage)} is not played: it {words}.", "Take stage 1 or 2.")
    if zero.get("contiguous_gradients", True) is False:
        raise UnsupportedError(f"{where}: contiguous_gradients false is not played.", "Leave it out.")
    if _device(zero, "offload_param", where) != "none":
        raise UnsupportedError(f"{where}: offload_param is of stage 3, which is not played.", "Leave it out.")
    offload = _device(zero, "offload_optimizer", where) == "cpu" or said.switch("cpu_offload")
    return {
        "zero_stage": stage,
        "zero_bucket": _bucket(zero.get("reduce_bucket_size", BUCKET), where),
        "zero_overlap": zero.get("overlap_comm") is not None and said.switch("overlap_comm"),
        "zero_offload": "optimizer" if offload else "none",
    }


def _device(zero: Mapping[str, Any], key: str, where: str) -> str:
    device = _section(zero, key, where).get("device") or "none"
    if device not in ("none", "cpu"):
        raise UnsupportedError(f"{where}: {key} to {shown(device)} is not modelled.", "Take cpu or none.")
    return str(device)


def _bucket(size: Any, where: str) -> int:
    """Return a number of elements, which JSON may write as 5e8; 0 is the square of the hidden size."""
    if size == AUTO:
        return HIDDEN_SQUARED
    if isinstance(size, str) and EXPONENT.fullmatch(size):  # which YAML, unlike JSON, takes for a word
        size = float(size)
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not 1 <= size <= MOST or size != int(size):
        raise ConfigError(f"{where}: reduce_bucket_size is {shown(size)}.", "Give a whole number, or auto.")
    return int(size)


def of_accelerate(config: Mapping[str, Any], where: str, precision: Any) -> dict[str, Any]:
    """Return what accelerate's `deepspeed_config` says, of which it makes a config of DeepSpeed's."""
    made: dict[str, Any] = {
        "gradient_accumulation_steps": config.get("gradient_accumulation_steps", AUTO),
        "zero_optimization": {
            "stage": config.get("zero_stage", 2),
            "offload_optimizer": {"device": config.get("offload_optimizer_device")},
            "offload_param": {"device": config.get("offload_param_device")},
        },
    }
    if precision in DTYPES:
        made[str(precision)] = {"enabled": True}
    return fields_of(made, where)
