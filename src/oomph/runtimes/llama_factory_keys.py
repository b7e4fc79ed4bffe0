"""What LLaMA-Factory's arguments say of dtypes, of the base and of the stage.

What trains is cast to fp32 unless `pure_bf16` (src/llamafactory/model/adapter.py, init_adapter); a quantised base is
not prepared as PEFT does it, its norms, embedding and head stay as they are (model_utils/checkpointing.py,
prepare_model_for_training).
"""

from __future__ import annotations

from typing import Any

from oomph.errors import UnsupportedError
from oomph.runtimes.said import Said
from oomph.runtimes.trainer import mixed

BITSANDBYTES = ("bnb", "bitsandbytes")
PRETRAINING, FINE_TUNING = "pt", "sft"
OBJECTIVES = {"dpo": "dpo", "kto": "kto", "rm": "reward", "ppo": "ppo"}  # by stage: what TRL's trainers of the kind do


def method(said: Said, key: str) -> dict[str, Any]:
    """Read `finetuning_type`: in full fine-tuning weights are made fp32, which autocast then computes from."""
    found: dict[str, Any] = {"method": said.one_of(key, {"lora": "lora", "full": "full"})}
    if found["method"] == "full" and not said.switch("pure_bf16"):
        found["precision"] = "fp32"
    return found


def under_autocast(dtype: str) -> Any:
    """Return the reader of `bf16: true` or `fp16: true`, which goes with weights in fp32 if these train."""

    def read(said: Said, key: str) -> dict[str, Any]:
        if not said.switch(key):
            return {}
        whole = said.values.get("finetuning_type") == "full" and not said.switch("pure_bf16")
        return mixed(dtype, "fp32" if whole else dtype)

    return read


def pure(said: Said, key: str) -> dict[str, Any]:
    """Read `pure_bf16`: weights, adapters and states in bf16, without autocast."""
    if not said.switch(key):
        return {}
    return {"precision": "bf16", "autocast": False, "fp32_outputs": False, "adapter_dtype": "base"}


def base(said: Said, key: str) -> dict[str, Any]:
    """Read `quantization_bit` of bitsandbytes: Unsloth loads such a base its own way."""
    how = said.values.get("quantization_method") or BITSANDBYTES[0]
    if how not in BITSANDBYTES:
        problem = f"{said.where}: quantization_method {str(how)[:40]!r} is not modelled."
        raise UnsupportedError(problem, "Take bnb, or name the base's format: --quantization.")
    bits = said.one_of_numbers(key, (4, 8))
    if said.values.get("use_unsloth") is True and bits == 4:
        return {"method": "qlora"}
    if bits == 8:
        return {"method": "lora", "quantization": "int8", "kbit_preparation": False}
    kind = (
        said.one_of("quantization_type", {"nf4": "nf4", "fp4": "fp4"}) if "quantization_type" in said.values else "nf4"
    )
    double = said.switch("double_quantization") if "double_quantization" in said.values else True
    return {"method": "lora", "quantization": f"{kind}-dq" if double else kind, "kbit_preparation": False}


def stage(said: Said, key: str) -> dict[str, Any]:
    """Read the stage: pre-training is fine-tuning on full rows; others have loops of LLaMA-Factory's own."""
    value = said.values[key]
    if isinstance(value, str) and value in OBJECTIVES:
        objective = OBJECTIVES[value]
        fix = f"Near it: oomph train MODEL --framework trl --objective {objective}, with the options typed."
        raise UnsupportedError(f"{said.where}: {key} {value} as LLaMA-Factory runs it is not modelled.", fix)
    return dict(said.one_of(key, {FINE_TUNING: {}, PRETRAINING: {}}))


def reentrant(said: Said, key: str) -> dict[str, Any]:
    """Read `use_reentrant_gc: false`."""
    off = said.values.get("disable_gradient_checkpointing") is True
    return {} if said.switch(key) or off else {"checkpointing": "non-reentrant"}
