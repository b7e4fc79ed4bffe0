"""fms-hf-tuning with fms-acceleration: TRL's SFTTrainer with checkpointing, weights in the dtype asked for."""

from __future__ import annotations

from oomph.runtimes import trainer
from oomph.runtimes.base import Default, Defaults, Runtime, Versions


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of its benchmarks."""
    return {
        **trainer.defaults(versions),
        "checkpointing": Default("reentrant", "gradient_checkpointing is on, its way the default of transformers 4"),
        "use_cache": Default(False, "checkpointing switches it off"),
        "seq_len": Default(4096, "max_seq_length is 4096"),
        "adapter_dropout": Default(0.1, "lora_dropout is 0.1 in all scenarios"),
    }


RUNTIME = Runtime(
    "fms", "fms-hf-tuning", "fms-acceleration, scripts/benchmarks/defaults.yaml, scenarios.yaml", defaults
)
