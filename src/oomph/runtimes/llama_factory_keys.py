"""What LLaMA-Factory's arguments say of dtypes, of the stage and of checkpoints.

Source: LLaMA-Factory 0.9.5, src/llamafactory/model/adapter.py (init_adapter: what trains is cast to fp32 unless
`pure_bf16`), model/model_utils/checkpointing.py.
"""

from __future__ import annotations

from typing import Any

from oomph.errors import UnsupportedError
from oomph.runtimes.said import Reader, Said
from oomph.runtimes.trainer import mixed

PRETRAINING, FINE_TUNING = "pt", "sft"
OBJECTIVES = {"dpo": "dpo", "kto": "kto", "rm": "reward", "ppo": "ppo"}  # by stage: what TRL's trainers of the kind do
CHECKPOINTING = ("disable_gradient_checkpointing", "use_reentrant_gc", "use_unsloth_gc")


def method(said: Said, key: str) -> dict[str, Any]:
    """Read `finetuning_type`: in full fine-tuning weights are made fp32, which autocast then computes from."""
    found: dict[str, Any] = {"method": said.one_of(key, {"lora": "lora", "full": "full"})}
    if found["method"] == "full" and not said.switch("pure_bf16"):
        found["precision"] = "fp32"
    return found


def under_autocast(dtype: str) -> Reader:
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


def stage(said: Said, key: str) -> dict[str, Any]:
    """Read the stage: pre-training is fine-tuning on full rows; others have loops of LLaMA-Factory's own."""
    value = said.values[key]
    if isinstance(value, str) and value in OBJECTIVES:
        objective = OBJECTIVES[value]
        fix = f"Near it: oomph train MODEL --framework trl --objective {objective}, with the options typed."
        raise UnsupportedError(f"{said.where}: {key} {value} as LLaMA-Factory runs it is not modelled.", fix)
    return dict(said.one_of(key, {FINE_TUNING: {}, PRETRAINING: {}}))


def checkpointing(said: Said, key: str) -> dict[str, Any]:
    """Read the ways of checkpointing, all at once: the reentrant one unless told otherwise."""
    if said.switch("disable_gradient_checkpointing"):
        return {"checkpointing": "none"}
    if said.switch("use_unsloth_gc"):
        return {"checkpointing": "unsloth"}
    reentrant = said.values.get("use_reentrant_gc") is None or said.switch("use_reentrant_gc")
    return {"checkpointing": "reentrant" if reentrant else "non-reentrant"}
