"""axolotl: the Trainer under autocast over weights in bf16."""

from __future__ import annotations

from oomph.job_words import FLASH_ATTN
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


def packed(versions: Versions, attention: str) -> Defaults:
    """Return how a packed batch comes: as one row for flash-attn, else as so many rows."""
    if attention not in FLASH_ATTN:
        return {}
    return {"padding_free": Default(True, "sample_packing makes one row of micro_batch_size times sequence_len")}


RUNTIME = Runtime(
    "axolotl",
    "axolotl",
    "axolotl, utils/schemas/config.py, core/trainers/base.py",
    defaults,
    packed=packed,
    of_objective=trl.of_objective,
)
