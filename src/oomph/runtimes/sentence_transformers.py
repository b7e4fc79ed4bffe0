"""SentenceTransformerTrainer: the Trainer with losses of sentence-transformers, which says little otherwise."""

from __future__ import annotations

from oomph.errors import UnsupportedError
from oomph.objectives import KINDS
from oomph.runtimes import trainer
from oomph.runtimes.base import Default, Defaults, Runtime, Versions

FIRST = (5, 4)  # release whose modules and losses are played


def defaults(versions: Versions) -> Defaults:
    """Return the defaults of SentenceTransformerTrainingArguments: TrainingArguments', fp32 without checkpoints."""
    known = versions.of("sentence_transformers")
    if known < FIRST:
        fix = "Take 5.4 or newer."
        raise UnsupportedError(f"oomph does not know sentence-transformers {'.'.join(map(str, known))} yet.", fix)
    release = "6" if versions.at_least("sentence_transformers", 6) else "5"
    return {
        **trainer.defaults(versions),
        "objective": Default(
            "contrastive", "MultipleNegativesRankingLoss; CoSENTLoss, taken where none is named, is not"
        ),
        "loss": Default("hf", "there is no head, and so no loss of the model's own"),
        "precision": Default("fp32", "models are loaded in fp32, and bf16 is off"),
        "padding": Default(True, "texts differ in length"),
        "use_cache": Default(False, "its module Transformer switches caches off, or says itself what it keeps"),
        "sentence_transformers": Default(release, "the release"),
    }


def of_objective(objective: str, versions: Versions) -> Defaults:
    """Return what differs from objective to objective: nothing among its own."""
    if KINDS[objective].task != "embedding":
        fix = "Say --objective contrastive or contrastive-cached, or --framework trl."
        raise UnsupportedError(f"sentence-transformers has no objective {objective}.", fix)
    return {}


RUNTIME = Runtime(
    "sentence-transformers",
    "sentence-transformers' trainer",
    "sentence-transformers, base/training_args.py, base/trainer.py",
    defaults,
    of_objective=of_objective,
)
