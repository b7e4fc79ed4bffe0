"""PEFT's way with a quantised base: prepare_model_for_kbit_training, then a Trainer in mixed precision."""

from __future__ import annotations

from oomph.runtimes import trainer
from oomph.runtimes.base import Default, Defaults, Runtime, Versions


def prepared(versions: Versions, precision: str = "bf16") -> Defaults:
    """Return what goes with a quantised base: layers are checkpointed, and what PEFT leaves in fp32 is multiplied in 16
    bits where weights are so wide.
    """
    layers = Default(trainer.checkpointing(versions), "prepare_model_for_kbit_training turns it on")
    if precision not in ("bf16", "fp16"):
        return {"checkpointing": layers}
    why = "its guides train with bf16=True or fp16=True, as what it leaves in fp32 asks for"
    return {"checkpointing": layers, "autocast": Default(True, why)}


def quantised(versions: Versions) -> Defaults:
    """Return the same under a Trainer."""
    return {
        **prepared(versions),
        "fp32_outputs": Default(True, "accelerate returns fp32 logits under mixed precision"),
        "use_cache": Default(False, "checkpointing switches it off"),
    }


SOURCE = "peft, utils/other.py; its docs, developer_guides/quantization"
RUNTIME = Runtime("peft", "PEFT's guides: a Trainer over an adapted model", SOURCE, trainer.defaults, quantised)
