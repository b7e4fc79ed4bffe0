"""What LitGPT's configs say, as its config_hub has them: what `litgpt finetune_lora` and `finetune_full` take.

Source: litgpt 0.5.13, finetune/lora.py, finetune/full.py, args.py, utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.errors import ConfigError, UnsupportedError
from oomph.runtimes.optimizer_keys import optimizer
from oomph.runtimes.said import Said, shown

PRECISIONS: dict[str, dict[str, Any]] = {
    "bf16-true": {"precision": "bf16"},
    "16-true": {"precision": "fp16"},
    "32-true": {"precision": "fp32"},
    "bf16-mixed": {"precision": "amp-bf16"},
    "16-mixed": {"precision": "amp-fp16"},
}
USUALLY = "bf16-mixed"  # get_default_supported_precision on a GPU that knows bf16
QUANTISED = {f"bnb.{name}": {"quantization": name} for name in ("nf4", "nf4-dq", "fp4", "fp4-dq")}
# Which maps get adapters, each a switch, and whether it is on where nothing is said.
SWITCHES = {"query": True, "key": False, "value": True, "projection": False, "mlp": False, "head": False}
ADAPTERS = ("lora_r", *(f"lora_{name}" for name in SWITCHES))
NOT_TAKEN = ("train.max_norm", "train.max_tokens", "train.tie_embeddings", "train.lr_warmup_fraction")


def model_of(values: Mapping[str, Any]) -> str | None:
    """Return the repository that a checkpoint's folder is named after.

    >>> model_of({"checkpoint_dir": "checkpoints/microsoft/phi-2"})
    'microsoft/phi-2'
    """
    folder = values.get("checkpoint_dir")
    parts = [part for part in folder.split("/") if part] if isinstance(folder, str) else []
    return "/".join(parts[-2:]) or None


def adapters(said: Said, key: str) -> dict[str, Any]:
    """Read LoRA's rank and its switches, all at once; a recipe without any of them trains all weights."""
    on = [
        name
        for name, usually in SWITCHES.items()
        if (usually if said.values.get(f"lora_{name}") is None else said.switch(f"lora_{name}"))
    ]
    if not on:
        raise ConfigError(f"{said.where}: none of LoRA's maps is on.", f"Set one of lora_{', lora_'.join(SWITCHES)}.")
    rank = {} if said.values.get("lora_r") is None else {"rank": said.whole("lora_r")}
    return {"method": "lora", "targets": ",".join(on), **rank}


def accumulation(said: Said, key: str) -> dict[str, Any]:
    """Read `train.global_batch_size`: so many of `train.micro_batch_size`, which is one if nothing is said of it."""
    whole = said.whole(key)
    micro = 1 if said.values.get("train.micro_batch_size") is None else said.whole("train.micro_batch_size")
    if whole < micro:
        fix = f"Give at least train.micro_batch_size, {micro}."
        raise ConfigError(f"{said.where}: {key} is {whole}, which is not one batch.", fix)
    return {"accumulation": whole // micro}


def not_taken(said: Said, key: str) -> dict[str, Any]:
    """Refuse what validate_args refuses: arguments of pretraining alone."""
    raise UnsupportedError(f"{said.where}: LitGPT's fine-tuning takes no {key}.", "Leave it out.")


def optimizer_of(said: Said, key: str) -> dict[str, Any]:
    """Read the optimizer, a name or a class; a quantised base is trained with PagedAdamW, whatever AdamW is said."""
    value = said.values[key]
    if said.values.get("quantize") is not None:
        if not isinstance(value, str) or "AdamW" not in value:
            problem = f"{said.where}: LitGPT trains a quantised base with AdamW alone, not with {shown(value)}."
            raise UnsupportedError(problem, "Say AdamW, or leave quantize out.")
        return {}
    name = value if not isinstance(value, str) or "." in value else f"torch.optim.{value}"
    return optimizer(Said(said.where, {**said.values, key: name}), key)
