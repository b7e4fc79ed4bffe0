"""BERT and the families that kept its names: learned positions, token types, post-norm layers, 2·H·F MLP.

Class defaults and structure: transformers 5.23, models/bert, roberta, xlm_roberta, camembert, electra, ernie.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Part, Stack
from oomph.blocks.basic import Dropout, Embedding, Linear, Norm
from oomph.blocks.encoder import EncoderLayer, LayerNames, MaskedHead, inline
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.errors import ConfigError, UnsupportedError
from oomph.families.heads import (
    MASKED,
    MASKER,
    classifier,
    num_labels,
    objective_of,
    pooler,
    table,
    task,
    two_step_classifier,
    unplayed_head,
)
from oomph.model import Model

_BASE: dict[str, Any] = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 512, "type_vocab_size": 2,
    "tie_word_embeddings": True, "is_decoder": False, "add_cross_attention": False,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {
    "bert": _BASE,
    "ernie": {**_BASE, "use_task_id": False, "task_type_vocab_size": 3},
    "roberta": {**_BASE, "vocab_size": 50265, "pad_token_id": 1},
    "xlm-roberta": {**_BASE, "pad_token_id": 1},
    "camembert": {**_BASE, "pad_token_id": 1},
    "electra": {
        **_BASE, "embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024,
        "summary_use_proj": True,
    },
}  # fmt: skip

DROPOUT = 0.1  # hidden_dropout_prob and attention_probs_dropout_prob of every class here

# model_type -> the prefix of its classes, and the attribute a headed class keeps the model under.
_PREFIX = {
    "bert": ("Bert", "bert"), "ernie": ("Ernie", "ernie"), "roberta": ("Roberta", "roberta"),
    "xlm-roberta": ("XLMRoberta", "roberta"), "camembert": ("Camembert", "roberta"),
    "electra": ("Electra", "electra"),
}  # fmt: skip
_ROBERTA = {"roberta", "xlm-roberta", "camembert"}
# These classes declare lm_head before the model: the tied table is stored as the head's.
_HEAD_FIRST = {"xlm-roberta", "camembert"}

_CLASSIFIERS = ("ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification", "ForQuestionAnswering")
_KNOWN = {
    "bert": ("Model", *MASKED, "ForPreTraining", "ForNextSentencePrediction", *_CLASSIFIERS),
    "roberta": ("Model", *MASKED, *_CLASSIFIERS),
    "electra": ("Model", *MASKED, "ForPreTraining", *_CLASSIFIERS),
}
# Tasks whose class keeps the pooler.
_POOLED_BERT = {
    "Model", "ForPreTraining", "ForNextSentencePrediction", "ForSequenceClassification", "ForMultipleChoice",
}  # fmt: skip
_POOLED_ROBERTA = {"Model", "ForMultipleChoice"}

_LAYER = LayerNames(
    "attention", "attention.output.LayerNorm", "", "output.LayerNorm",
    "crossattention", "crossattention.output.LayerNorm",
)  # fmt: skip


def build(config: Config) -> Model:
    """Return the encoder with the head its architecture names."""
    model_type = config.model_type
    prefix, base = _PREFIX[model_type]
    kind = "roberta" if model_type in _ROBERTA else "electra" if model_type == "electra" else "bert"
    head = task(config, prefix, _KNOWN[kind], "ForMaskedLM")
    _refuse_other_positions(config)
    hidden, vocab = config.size("hidden_size"), config.size("vocab_size")
    speaks = head in MASKED or (head == "ForPreTraining" and kind == "bert")
    tied = speaks and config.bool("tie_word_embeddings")
    top = _top(config, kind, head, hidden, vocab, tied)
    borrowed = tied and model_type in _HEAD_FIRST
    body = _body(config, kind, head, borrowed)
    if head != "Model":
        body = {f"{base}.{path}": part for path, part in body.items()}
    positions = config.int("max_position_embeddings")
    if kind == "roberta":
        positions = max(1, positions - 1 - (config.optional_int("pad_token_id", low=0) or 0))
    return Model(
        parts={**top, **body} if model_type in _HEAD_FIRST else {**body, **top},
        hidden_size=hidden,
        num_layers=config.depth("num_hidden_layers"),
        vocab_size=vocab,
        tied=tied,
        context_length=positions,
        objective=objective_of(config, head),
        unplayed=tuple(_unplayed(config, head)),
    )


def _unplayed(config: Config, head: str) -> Iterator[str]:
    """Yield what the tape has no rule for: a decoder's mask and cache, other heads and losses."""
    if config.bool("is_decoder"):
        yield "is_decoder"
    if head == MASKER and config.model_type != "electra" and not config.bool("tie_word_embeddings"):
        yield "a head of its own table, whose second bias never gets a gradient"
    yield from unplayed_head(config, head)


def _refuse_other_positions(config: Config) -> None:
    """Alibi, rotary and relative positions need code that is published under BERT's names but is not BERT's."""
    found = config.str("position_embedding_type", "absolute")
    if found != "absolute":
        raise UnsupportedError(
            f"oomph does not know a {config.model_type} with position_embedding_type {found[:40]!r}.",
            "It runs on code of its own; weigh it from the headers of its weights.",
        )


def _body(config: Config, kind: str, head: str, borrowed: bool) -> dict[str, Part]:
    """Return embeddings, layers and pooler under the names of the bare model."""
    hidden, vocab = config.size("hidden_size"), config.size("vocab_size")
    width = config.int("embedding_size") if kind == "electra" else hidden
    task_types = config.int("task_type_vocab_size") if config.bool("use_task_id") else 0
    pooled = head in {"bert": _POOLED_BERT, "roberta": _POOLED_ROBERTA, "electra": set()}[kind]
    positions = {"embeddings.position_embeddings": table(config.int("max_position_embeddings"), width)}
    last = kind == "roberta"  # declares its positions after the norm
    return {
        "embeddings.word_embeddings": None if borrowed else Embedding(vocab, width),
        **({} if last else positions),
        "embeddings.token_type_embeddings": table(config.int("type_vocab_size", low=0), width),
        "embeddings.LayerNorm": Norm(width, bias=True),
        "embeddings.dropout": Dropout(config.rate("hidden_dropout_prob", DROPOUT)),
        **(positions if last else {}),
        "embeddings.task_type_embeddings": table(task_types, width) if task_types else None,
        "embeddings_project": Linear(width, hidden, bias=True) if width != hidden else None,
        "encoder.layer": Stack.of(_layer(config, hidden), config.depth("num_hidden_layers")),
        "pooler": pooler(hidden) if pooled else None,
    }


def _layer(config: Config, hidden: int) -> EncoderLayer:
    heads = config.int("num_attention_heads")
    attention = Attention(
        hidden, heads, heads, config.divide(hidden, heads, "attention heads"), qkv_bias=True, out_bias=True,
        qkv=("self.query", "self.key", "self.value"), out="output.dense",
        dropout=config.rate("attention_probs_dropout_prob", DROPOUT),
    )  # fmt: skip
    crossing = config.bool("add_cross_attention")
    if crossing and not config.bool("is_decoder"):
        raise ConfigError("add_cross_attention needs is_decoder.", "Set is_decoder to true in config.json.")
    names = ("intermediate.dense", "output.dense")
    activation = config.str("hidden_act", "gelu")
    mlp = MLP(hidden, config.int("intermediate_size"), bias=True, names=names, activation=activation)
    cross = attention if crossing else None
    rate = config.rate("hidden_dropout_prob", DROPOUT)
    decodes = config.bool("is_decoder")
    return EncoderLayer(attention, mlp, Norm(hidden, bias=True), _LAYER, cross, rate=rate, decodes=decodes)


def _classifier_dropout(config: Config) -> Dropout:
    return Dropout(config.rate("classifier_dropout", config.rate("hidden_dropout_prob", DROPOUT)))


def _top(config: Config, kind: str, head: str, hidden: int, vocab: int, tied: bool) -> dict[str, Part]:
    """Return the head's parts; none for the bare model."""
    labels = num_labels(config)
    if head == "ForSequenceClassification" and kind != "bert":
        return {"classifier": two_step_classifier(hidden, labels, _classifier_dropout(config))}
    if head == "ForMultipleChoice":
        projected = kind == "electra" and config.bool("summary_use_proj")
        summary = {"sequence_summary.summary": Linear(hidden, hidden, bias=True)} if projected else {}
        return {**summary, "classifier": classifier(hidden, 1)}
    if head in ("ForSequenceClassification", "ForTokenClassification"):
        return {"dropout": _classifier_dropout(config), "classifier": classifier(hidden, labels)}
    if head == "ForQuestionAnswering":
        return {"qa_outputs": classifier(hidden, labels)}
    return _language_head(config, kind, head, hidden, vocab, tied) if head != "Model" else {}


def _language_head(config: Config, kind: str, head: str, hidden: int, vocab: int, tied: bool) -> dict[str, Part]:
    """Return what fills in masks, tells replaced tokens, or tells whether sentences follow each other."""
    if kind == "electra" and head == "ForPreTraining":
        dense = Linear(hidden, hidden, bias=True)
        return {
            "discriminator_predictions.dense": dense,
            "discriminator_predictions.dense_prediction": classifier(hidden, 1),
        }
    if kind == "electra":
        names = ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head")
        head_parts = inline(MaskedHead(hidden, config.int("embedding_size"), vocab, tied, names, bias=""))
        return {names[1]: head_parts[names[1]], **head_parts}  # the class declares its norm first
    if kind == "roberta":
        first = config.model_type in _HEAD_FIRST
        return {"lm_head": MaskedHead(hidden, hidden, vocab, tied, stores_table=first)}
    names = ("transform.dense", "transform.LayerNorm", "decoder")
    activation = config.str("hidden_act", "gelu")
    predictions = (
        MaskedHead(hidden, hidden, vocab, tied, names, activation=activation)
        if head != "ForNextSentencePrediction"
        else None
    )
    follows = classifier(hidden, 2) if head in ("ForPreTraining", "ForNextSentencePrediction") else None
    return {"cls.predictions": predictions, "cls.seq_relationship": follows}
