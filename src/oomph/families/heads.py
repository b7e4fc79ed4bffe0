"""Which head an encoder carries: `architectures` decides, and only names of the real classes are believed."""

from __future__ import annotations

from collections.abc import Collection

from oomph.blocks.base import Module, Part
from oomph.blocks.basic import Embedding, Head, Linear
from oomph.config import MAX_EXPERTS, Config
from oomph.errors import UnsupportedError

MASKED = ("ForMaskedLM", "LMHeadModel", "ForCausalLM")
BINARY_LABELS = 2  # PretrainedConfig's num_labels when the file says nothing


def task(config: Config, prefix: str, known: Collection[str], default: str) -> str:
    """Return what follows the class prefix in `architectures`: Model, ForMaskedLM ...; `default` when absent.

    Encoders are often published with code of their own under a model_type of transformers (JinaBert as bert),
    so a class that is not transformers' own is refused, not taken for its namesake.
    """
    architectures = config.list("architectures")
    if not architectures:
        return default
    name = str(architectures[0])[:80]
    found = name.removeprefix(prefix)
    if not name.startswith(prefix) or found not in known:
        raise UnsupportedError(
            f"oomph does not know {name!r}, a class for model_type {config.model_type!r}.",
            f"It knows {', '.join(prefix + one for one in known)}; a model with code of its own is weighed from "
            "the headers of its weights.",
        )
    return found


def num_labels(config: Config, default: int = BINARY_LABELS) -> int:
    """Return how many classes a classifier tells apart: id2label's, else num_labels, else the class default."""
    return len(config.section("id2label")) or config.optional_int("num_labels", high=MAX_EXPERTS) or default


def classifier(hidden: int, labels: int) -> Head:
    """Return the map onto the classes."""
    return Head(hidden, labels, bias=True)


def two_step_classifier(hidden: int, labels: int, dropout: Part = None) -> Module:
    """Return the classifier that has a map of its own width before the last one (RoBERTa, T5, BART)."""
    parts = {"dense": Linear(hidden, hidden, bias=True), "dropout": dropout, "out_proj": classifier(hidden, labels)}
    return Module(parts, "lm_head")


def pooler(hidden: int) -> Module:
    """Return the map over the first token's state."""
    return Module({"dense": Linear(hidden, hidden, bias=True)}, "other")


def table(rows: int, size: int) -> Part:
    """Return positions or token types as BERT's kin keep them: with the embedding, not on a line of their own."""
    return Embedding(rows, size)
