"""TRL's trainers: the Trainer with other defaults, which changed in 2025, and losses of their own since 2026."""

from __future__ import annotations

from oomph.errors import UnsupportedError
from oomph.job_words import COMPLETING
from oomph.objectives import KINDS
from oomph.runtimes import trainer
from oomph.runtimes.base import Default, Defaults, Runtime, Versions

FUSED_HEAD = (1, 15)  # TRL from which on all trainers have it
CHUNKED_NLL = (1, 7)  # from which on to there SFTTrainer's default was chunked_nll; up to 1.12 in fp32

BEST_FIT_SINCE, LENGTHS_SINCE = (0, 19), (1, 16)  # TRL whose packing is best-fit, whose collator makes cu_seq_lens
FIRST_PPO, LAST_PPO = (0, 16), (1, 12)  # TRL whose PPOTrainer is played
AUTOCAST_SINCE = (0, 20)  # from which on its bf16 is on
UNPREPARED_SINCE = (0, 27)  # by which, at the latest, nothing calls prepare_model_for_kbit_training


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


def quantised(versions: Versions) -> Defaults:
    """Return what is done with a quantised base: nothing any more."""
    if not versions.at_least("trl", *UNPREPARED_SINCE):
        return {}
    return {"kbit_preparation": Default(False, "its trainers prepare no quantised base: tables and norms keep theirs")}


def packed(versions: Versions, attention: str) -> Defaults:
    """Return how SFTTrainer hands on packed rows: best-fit packing, the default since 0.19, makes one of a batch."""
    found = {}
    if versions.at_least("trl", *BEST_FIT_SINCE):
        found["padding_free"] = Default(True, "packing_strategy is bfd, which lays all rows of a batch out as one")
    if versions.at_least("trl", *LENGTHS_SINCE):
        found["packed_by"] = Default("lengths", "its collator says where sequences begin")
    return found


def of_objective(objective: str, versions: Versions) -> Defaults:
    """Return what the configs of other trainers say otherwise than SFTConfig."""
    if KINDS[objective].task == "embedding":
        raise UnsupportedError(f"TRL has no objective {objective}.", "Say --framework sentence-transformers.")
    if KINDS[objective].judged:
        return _of_ppo(versions)
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
    if objective == "distill":
        found |= {
            "precision": Default("bf16", "from_pretrained takes the checkpoint's dtype, which most have in bf16"),
            "fp32_outputs": Default(False, "TRL's loss runs in the place of the forward that accelerate wraps"),
            "use_cache": Default(False, "its forward passes say so"),
            "teacher_dtype": Default("student", "both are loaded alike"),
        }
    if objective not in COMPLETING:
        found["dropout"] = Default(False, "disable_dropout is on")
    return found


def _of_ppo(versions: Versions) -> Defaults:
    """Return what PPOTrainer does: a loop of its own, which checkpoints and clips nothing.

    It asks accelerate for no precision. Up to transformers 4 that was told by an environment variable, which
    TrainingArguments set; since 5.0 bf16=True changes nothing.
    """
    known = dict(versions.known).get("trl", LAST_PPO)
    if not FIRST_PPO <= known[:2] <= LAST_PPO:
        fix = "oomph knows the PPOTrainer of TRL 0.16 to 1.12, after which TRL has none."
        raise UnsupportedError(f"TRL {'.'.join(map(str, known))} runs no PPO that oomph knows.", fix)
    told = not versions.at_least("transformers", 5) and known >= AUTOCAST_SINCE
    why = (
        "bf16 is on, and weights are loaded in fp32 unless told otherwise"
        if told
        else "nothing tells accelerate of bf16, and weights are loaded in fp32"
    )
    return {
        "loss": Default(KINDS["ppo"].loss, "PPOTrainer takes log-probabilities itself"),
        "precision": Default("amp-bf16" if told else "fp32", why),
        "fp32_outputs": Default(told, "accelerate returns fp32 outputs under mixed precision alone"),
        "checkpointing": Default("none", "PPOTrainer never switches it on"),
        "clip_gradients": Default(False, "PPOTrainer does not clip"),
        "padding": Default(True, "prompts differ in length"),
        "use_cache": Default(False, "PPOTrainer's forward passes fill caches whatever is said"),
        "dropout": Default(False, "PPOTrainer switches it off"),
    }


RUNTIME = Runtime(
    "trl",
    "TRL's trainers",
    "trl, trainer/*_config.py",
    defaults,
    quantised=quantised,
    packed=packed,
    of_objective=of_objective,
)
