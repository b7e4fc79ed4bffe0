"""axolotl: the Trainer under autocast over weights in bf16."""

from __future__ import annotations

from oomph.runtimes import trainer, trl
from oomph.runtimes.base import Default, Defaults, Runtime, Versions


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of a config that says no more than it must."""
    return {
        **trainer.defaults(versions),
        "precision": Default("bf16", "weights are loaded in bf16"),
        "autocast": Default(True, "bf16: auto is on, so all runs under autocast"),
        "fp32_outputs": Default(True, "accelerate returns fp32 logits under mixed precision"),
        "seq_len": Default(512, "sequence_len is 512"),
        "kernels": Default("torch", "its fused kernels of adapters, on by default in 0.19, are not modelled"),
    }


RUNTIME = Runtime("axolotl", "axolotl", "axolotl, utils/schemas/config.py", defaults, of_objective=trl.of_objective)
