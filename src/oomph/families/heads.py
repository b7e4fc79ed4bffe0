"""Which head an encoder carries: `architectures` decides, and only names of the real classes are believed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from oomph.blocks.base import Module, Part
from oomph.blocks.basic import Embedding, Head, Linear
from oomph.config import MAX_EXPERTS, Config
from oomph.errors import UnsupportedError

MASKED = ("ForMaskedLM", "LMHeadModel", "ForCausalLM")
BARE = "For"  # how an architecture begins that names a head but no class: see `headed`
# What a job's task is called at the end of the real classes' names.
HEADS = {
    "causal-lm": "ForCausalLM",
    "masked-lm": "ForMaskedLM",
    "sequence-classification": "ForSequenceClassification",
    "embedding": "Model",
}
MASKER, CLASSIFIER = "ForMaskedLM", "ForSequenceClassification"  # heads of encoders that the tape plays
HEADLESS = "Model"  # what a class without a head is called after its prefix
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
    if not (name.startswith((prefix, BARE)) or name == HEADLESS) or found not in known:
        raise UnsupportedError(
            f"oomph does not know {name!r}, a class for model_type {config.model_type!r}.",
            f"It knows {', '.join(prefix + one for one in known)}; a model with code of its own is weighed from "
            "the headers of its weights.",
        )
    return found


def headed(config: Mapping[str, Any], task: str, labels: int = 0, pads: bool = False) -> dict[str, Any]:
    """Return a config with the head that a task needs: that of a class of the same model type.

    `pads`: the trainer gives it the tokenizer's padding token where it has none, as TRL's RewardTrainer does.

    >>> headed({"model_type": "bert", "architectures": ["BertModel"]}, "sequence-classification", 3)
    {'model_type': 'bert', 'architectures': ['ForSequenceClassification'], 'num_labels': 3}
    >>> headed({"model_type": "bert"}, "config")
    {'model_type': 'bert'}
    """
    if task == "config":
        return dict(config)
    changed = {**config, "architectures": [HEADS[task]]}
    if labels:
        named = ("id2label", "label2id")  # say the number again
        changed = {**{key: value for key, value in changed.items() if key not in named}, "num_labels": labels}
    if pads and changed.get("pad_token_id") is None:
        changed["pad_token_id"] = 0  # which one it is moves no byte
    return changed


def num_labels(config: Config, default: int = BINARY_LABELS) -> int:
    """Return how many classes a classifier tells apart: id2label's, else num_labels, else the class default."""
    return len(config.section("id2label")) or config.optional_int("num_labels", high=MAX_EXPERTS) or default


def classifying(labels: int) -> str:
    """Return what a classifier of so many labels is trained for."""
    return "regression" if labels == 1 else "sequence-classification"


def other_problem(config: Config) -> tuple[str, ...]:
    """Return what a classifier's problem_type asks for that the tape has no rule for: other losses than the usual."""
    usual = "regression" if num_labels(config) == 1 else "single_label_classification"
    return () if config.str("problem_type") in ("", usual) else ("several labels at once, or several numbers",)


def objective_of(config: Config, head: str) -> str:
    """Return what an encoder with a head is trained for, "" where the tape plays no such head."""
    if head == CLASSIFIER:
        return classifying(num_labels(config))
    return {MASKER: "masked-lm", HEADLESS: "embedding"}.get(head, "")


def unplayed_head(config: Config, head: str) -> Iterator[str]:
    """Yield what the tape has no rule for: other heads, other losses, an MLP that goes piece by piece."""
    if head not in (MASKER, CLASSIFIER, HEADLESS):
        yield f"the head of {head}"
    if head == CLASSIFIER:
        yield from other_problem(config)
    if config.raw.get("chunk_size_feed_forward"):
        yield "chunk_size_feed_forward"


def task_of(objective: str) -> str:
    """Return the task of a job that trains for an objective: a regression is a classifier of one label.

    >>> task_of("regression"), task_of("masked-lm")
    ('sequence-classification', 'masked-lm')
    """
    return "sequence-classification" if objective == "regression" else objective


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
