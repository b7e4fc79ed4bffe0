"""What LLaMA-Factory's keys say of dtypes and checkpoints.

Source: LLaMA-Factory 0.9.5, model/adapter.py (cast_trainable_params_to_fp32), model/model_utils/checkpointing.py.
"""

from __future__ import annotations

from typing import Any

from oomph.runtimes.said import Reader, Said
from oomph.runtimes.trainer import mixed

CHECKPOINTING = ("disable_gradient_checkpointing", "use_reentrant_gc", "use_unsloth_gc")


def low(dtype: str) -> Reader:
    """Return the reader of `bf16: true`: weights in 16 bit under autocast, and what trains in fp32: all in `full`."""

    def read(said: Said, key: str) -> dict[str, Any]:
        if said.values[key] not in (True, "auto", "true"):
            return {}
        whole = said.values.get("finetuning_type") == "full" and not said.values.get("use_badam")
        return mixed(dtype, "fp32" if whole else dtype)

    return read


def pure(said: Said, key: str) -> dict[str, Any]:
    """Read `pure_bf16`: no autocast, and nothing made fp32."""
    if not said.switch(key):
        return {}
    return {"precision": "bf16", "autocast": False, "fp32_outputs": False, "adapter_dtype": "base"}


def checkpointing(said: Said, key: str) -> dict[str, Any]:
    """Read the ways of checkpointing, all at once: the reentrant one unless told otherwise."""
    if said.switch("disable_gradient_checkpointing"):
        return {"checkpointing": "none"}
    if said.switch("use_unsloth_gc"):
        return {"checkpointing": "unsloth"}
    reentrant = said.values.get("use_reentrant_gc") is None or said.switch("use_reentrant_gc")
    return {"checkpointing": "reentrant" if reentrant else "non-reentrant"}
