"""TRL's SFTTrainer: the Trainer with other defaults, which changed in 2025."""

from __future__ import annotations

from oomph.runtimes import trainer
from oomph.runtimes.base import Default, Defaults, Runtime, Versions


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of SFTConfig: since 0.20 it checkpoints and takes autocast to bf16 over fp32 weights."""
    found = dict(trainer.defaults(versions))
    found["seq_len"] = Default(1024, "max_length is 1024")
    if versions.at_least("trl", 0, 20):
        found |= {
            "precision": Default("amp-bf16", "bf16 is on, and weights are loaded in fp32 unless told otherwise"),
            "fp32_outputs": Default(True, "accelerate returns fp32 logits under mixed precision"),
            "checkpointing": Default(trainer.checkpointing(versions), "gradient_checkpointing is on"),
            "use_cache": Default(False, "checkpointing switches it off"),
        }
    return found


RUNTIME = Runtime("trl", "TRL's SFTTrainer", "trl, trainer/sft_config.py", defaults)
