"""TRL's trainers: the Trainer with other defaults, which changed in 2025, and losses of their own since 2026."""

from __future__ import annotations

from oomph.errors import UnsupportedError
from oomph.job_words import COMPLETING
from oomph.objectives import KINDS
from oomph.runtimes import trainer
from oomph.runtimes.base import Default, Defaults, Runtime, Versions

FUSED_HEAD = (1, 15)  # TRL from which on all trainers have it
CHUNKED_NLL = (1, 7)  # from which on to there SFTTrainer's default was chunked_nll; up to 1.12 in fp32


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
    if versions.at_least("trl", *FUSED_HEAD):
        found["loss"] = Default("fused-head", "loss_type is nll, which TRL computes with its fused head")
    elif versions.at_least("trl", *CHUNKED_NLL):
        found["loss"] = Default("chunked-nll", "loss_type is chunked_nll")
    return found


def of_objective(objective: str, versions: Versions) -> Defaults:
    """Return what the configs of other trainers say otherwise than SFTConfig."""
    if not versions.at_least("trl", *FUSED_HEAD):
        raise UnsupportedError(f"oomph does not know {objective} as TRL before 1.15 runs it yet.")
    found = {
        "loss": Default(KINDS[objective].loss, "what TRL's trainer of this objective computes"),
        "padding": Default(True, "answers differ in length"),
        "use_cache": Default(False, "compute_loss says so"),
    }
    if KINDS[objective].teacher:
        del found["use_cache"]
        found["teacher_dtype"] = Default(
            "bf16", "from_pretrained takes the checkpoint's dtype, which most have in bf16"
        )
    if objective not in COMPLETING:
        found["dropout"] = Default(False, "disable_dropout is on")
    return found


RUNTIME = Runtime("trl", "TRL's trainers", "trl, trainer/*_config.py", defaults, of_objective=of_objective)
