"""ALBERT: a narrow embedding mapped up to H, and groups of layers whose weights the whole depth shares.

Class defaults and structure: transformers 5.23, models/albert.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Part, Stack
from oomph.blocks.basic import Dropout, Embedding, Linear, Norm
from oomph.blocks.encoder import LayerNames, MaskedHead, NormFirstLayer, SharedLayers
from oomph.blocks.mlp import MLP
from oomph.config import MAX_DEPTH, Config
from oomph.families.heads import MASKER, classifier, num_labels, objective_of, table, task, unplayed_head
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "albert": {
        "vocab_size": 30000, "embedding_size": 128, "hidden_size": 4096, "num_hidden_layers": 12,
        "num_hidden_groups": 1, "num_attention_heads": 64, "intermediate_size": 16384, "inner_group_num": 1,
        "max_position_embeddings": 512, "type_vocab_size": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip

_POOLED = {"Model", "ForPreTraining", "ForSequenceClassification", "ForMultipleChoice"}
_KNOWN = (
    "Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification", "ForMultipleChoice",
    "ForTokenClassification", "ForQuestionAnswering",
)  # fmt: skip
DROPOUT = 0.0  # hidden_dropout_prob and attention_probs_dropout_prob
ACTIVATION = "gelu_new"
CLASSIFIER_DROPOUT = 0.1  # classifier_dropout_prob
_LAYER = LayerNames("attention", "attention.LayerNorm", "", "full_layer_layer_norm")


def build(config: Config) -> Model:
    """Return the encoder with the head its architecture names; num_hidden_layers is depth, not storage."""
    head = task(config, "Albert", _KNOWN, "ForMaskedLM")
    hidden, vocab = config.size("hidden_size"), config.size("vocab_size")
    width = config.int("embedding_size")
    tied = head in ("ForMaskedLM", "ForPreTraining") and config.bool("tie_word_embeddings")
    body: dict[str, Part] = {
        "embeddings.word_embeddings": Embedding(vocab, width),
        "embeddings.position_embeddings": table(config.int("max_position_embeddings"), width),
        "embeddings.token_type_embeddings": table(config.int("type_vocab_size", low=0), width),
        "embeddings.LayerNorm": Norm(width, bias=True),
        "embeddings.dropout": Dropout(config.rate("hidden_dropout_prob", DROPOUT)),
        "encoder.embedding_hidden_mapping_in": Linear(width, hidden, bias=True),
        "encoder.albert_layer_groups": _groups(config, hidden),
        "pooler": Linear(hidden, hidden, bias=True) if head in _POOLED else None,
    }
    if head != "Model":
        body = {f"albert.{path}": part for path, part in body.items()}
    return Model(
        parts={**body, **_top(config, head, hidden, width, vocab, tied)},
        hidden_size=hidden,
        num_layers=config.depth("num_hidden_layers"),
        vocab_size=vocab,
        tied=tied,
        context_length=config.int("max_position_embeddings"),
        objective=objective_of(config, head),
        unplayed=tuple(_unplayed(config, head)),
    )


def _unplayed(config: Config, head: str) -> Iterator[str]:
    """Yield what the tape has no rule for."""
    if config.int("num_hidden_groups") > 1:
        yield "several groups of layers"
    if head == MASKER and not config.bool("tie_word_embeddings"):
        yield "a head of its own table, whose second bias never gets a gradient"
    yield from unplayed_head(config, head)


def _groups(config: Config, hidden: int) -> Stack:
    heads = config.int("num_attention_heads")
    attention = Attention(
        hidden, heads, heads, config.divide(hidden, heads, "attention heads"), qkv_bias=True, out_bias=True,
        qkv=("query", "key", "value"), out="dense", dropout=config.rate("attention_probs_dropout_prob", DROPOUT),
    )  # fmt: skip
    names, activation = ("ffn", "ffn_output"), config.str("hidden_act", ACTIVATION)
    mlp = MLP(hidden, config.int("intermediate_size"), bias=True, names=names, activation=activation)
    rate = config.rate("hidden_dropout_prob", DROPOUT)
    layer = NormFirstLayer(attention, mlp, Norm(hidden, bias=True), _LAYER, rate=rate)
    inner = Stack.of(layer, config.int("inner_group_num", high=MAX_DEPTH))
    group = SharedLayers(inner, config.depth("num_hidden_layers"))
    return Stack.of(group, config.int("num_hidden_groups", high=MAX_DEPTH))


def _top(config: Config, head: str, hidden: int, width: int, vocab: int, tied: bool) -> dict[str, Part]:
    labels = num_labels(config)
    if head in ("ForMaskedLM", "ForPreTraining"):
        order = classifier(hidden, labels) if head == "ForPreTraining" else None
        names, activation = ("dense", "LayerNorm", "decoder"), config.str("hidden_act", ACTIVATION)
        predictions = MaskedHead(hidden, width, vocab, tied, names, norm_first=True, activation=activation)
        return {"predictions": predictions, "sop_classifier.classifier": order}
    if head == "ForQuestionAnswering":
        return {"qa_outputs": classifier(hidden, labels)}
    if head == "Model":
        return {}
    top: dict[str, Part] = {"classifier": classifier(hidden, 1 if head == "ForMultipleChoice" else labels)}
    return {"dropout": Dropout(config.rate("classifier_dropout_prob", CLASSIFIER_DROPOUT)), **top}
