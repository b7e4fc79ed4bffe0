"""DistilBERT and MPNet: BERT's layers under names of their own, no token types.

Class defaults and structure: transformers 5.23, models/distilbert and models/mpnet.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Part, Stack
from oomph.blocks.basic import Dropout, Embedding, Head, Linear, Norm
from oomph.blocks.encoder import EncoderLayer, LayerNames, MaskedHead
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.families.heads import (
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

TYPES: dict[str, dict[str, Any]] = {
    "distilbert": {
        "vocab_size": 30522, "max_position_embeddings": 512, "n_layers": 6, "n_heads": 12, "dim": 768,
        "hidden_dim": 3072, "tie_word_embeddings": True,
    },
    "mpnet": {
        "vocab_size": 30527, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "max_position_embeddings": 512, "relative_attention_num_buckets": 32,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "distilbert": {
        "dim": ("hidden_size",), "n_heads": ("num_attention_heads",), "n_layers": ("num_hidden_layers",),
    },
}  # fmt: skip

_KNOWN = (
    "Model", "ForMaskedLM", "ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification",
    "ForQuestionAnswering",
)  # fmt: skip
_DISTILBERT_LAYER = LayerNames("attention", "sa_layer_norm", "ffn", "output_layer_norm")
_MPNET_LAYER = LayerNames("attention.attn", "attention.LayerNorm", "", "output.LayerNorm")
DROPOUT = 0.1  # dropout and attention_dropout, in MPNet's spelling too
CLASSIFIER_DROPOUT = 0.2  # seq_classif_dropout
MPNET_PADDING = 1  # the class starts counting positions after its padding index


def build(config: Config) -> Model:
    """Return the encoder with the head its architecture names."""
    return _mpnet(config) if config.model_type == "mpnet" else _distilbert(config)


def _embeddings(config: Config, vocab: int, hidden: int) -> dict[str, Part]:
    return {
        "embeddings.word_embeddings": Embedding(vocab, hidden),
        "embeddings.position_embeddings": table(config.int("max_position_embeddings"), hidden),
        "embeddings.LayerNorm": Norm(hidden, bias=True),
    }


def _distilbert(config: Config) -> Model:
    head = task(config, "DistilBert", _KNOWN, "ForMaskedLM")
    hidden, vocab, heads = config.size("dim"), config.size("vocab_size"), config.int("n_heads")
    attention = Attention(
        hidden, heads, heads, config.divide(hidden, heads, "attention heads"), qkv_bias=True, out_bias=True,
        qkv=("q_lin", "k_lin", "v_lin"), out="out_lin", dropout=config.rate("attention_dropout", DROPOUT),
    )  # fmt: skip
    dropout, activation = Dropout(config.rate("dropout", DROPOUT)), config.str("activation", "gelu")
    names = ("lin1", "lin2")
    mlp = MLP(hidden, config.int("hidden_dim"), bias=True, names=names, dropout=dropout, activation=activation)
    layer = EncoderLayer(attention, mlp, Norm(hidden, bias=True), _DISTILBERT_LAYER)
    body: dict[str, Part] = {
        **_embeddings(config, vocab, hidden),
        "embeddings.dropout": dropout,
        "transformer.layer": Stack.of(layer, config.depth("n_layers")),
    }
    tied = head == "ForMaskedLM" and config.bool("tie_word_embeddings")
    top = _distilbert_top(config, head, hidden, vocab, tied)
    return _model(config, body, top, head, "distilbert", hidden, vocab, config.depth("n_layers"), tied)


def _distilbert_top(config: Config, head: str, hidden: int, vocab: int, tied: bool) -> dict[str, Part]:
    if head == "ForMaskedLM":
        return {
            "vocab_transform": Linear(hidden, hidden, bias=True),
            "vocab_layer_norm": Norm(hidden, bias=True),
            # Tied, only the bias is the projector's own, and that is no language head.
            "vocab_projector": Head(hidden, vocab, tied, bias=True, kind="other" if tied else "lm_head"),
        }
    if head == "ForQuestionAnswering":
        return {"qa_outputs": classifier(hidden, num_labels(config))}
    if head == "Model":
        return {}
    labels = 1 if head == "ForMultipleChoice" else num_labels(config)
    first = None if head == "ForTokenClassification" else Linear(hidden, hidden, bias=True)
    dropout = Dropout(config.rate("seq_classif_dropout", CLASSIFIER_DROPOUT))
    return {"pre_classifier": first, "classifier": classifier(hidden, labels), "dropout": dropout}


def _mpnet(config: Config) -> Model:
    head = task(config, "MPNet", _KNOWN, "ForMaskedLM")
    hidden, vocab = config.size("hidden_size"), config.size("vocab_size")
    heads = config.int("num_attention_heads")
    rate = config.rate("hidden_dropout_prob", DROPOUT)
    attention = Attention(
        hidden, heads, heads, config.divide(hidden, heads, "attention heads"), qkv_bias=True, out_bias=True,
        qkv=("q", "k", "v"), out="o", dropout=config.rate("attention_probs_dropout_prob", DROPOUT),
    )  # fmt: skip
    names, activation = ("intermediate.dense", "output.dense"), config.str("hidden_act", "gelu")
    mlp = MLP(hidden, config.int("intermediate_size"), bias=True, names=names, activation=activation)
    layer = EncoderLayer(attention, mlp, Norm(hidden, bias=True), _MPNET_LAYER, rate=rate)
    buckets = Embedding(config.int("relative_attention_num_buckets"), heads, kind="attention")
    body: dict[str, Part] = {
        **_embeddings(config, vocab, hidden),
        "embeddings.dropout": Dropout(rate),
        "encoder.layer": Stack.of(layer, config.depth("num_hidden_layers")),
        "encoder.relative_attention_bias": buckets,
        "pooler": pooler(hidden) if head in ("Model", "ForMultipleChoice") else None,
    }
    tied = head == "ForMaskedLM" and config.bool("tie_word_embeddings")
    top = _mpnet_top(config, head, hidden, vocab, tied)
    return _model(config, body, top, head, "mpnet", hidden, vocab, config.depth("num_hidden_layers"), tied)


def _mpnet_top(config: Config, head: str, hidden: int, vocab: int, tied: bool) -> dict[str, Part]:
    labels = 1 if head == "ForMultipleChoice" else num_labels(config)
    if head == "ForMaskedLM":
        return {"lm_head": MaskedHead(hidden, hidden, vocab, tied)}
    if head == "ForSequenceClassification":
        dropout = Dropout(config.rate("hidden_dropout_prob", DROPOUT))
        return {"classifier": two_step_classifier(hidden, labels, dropout)}
    if head == "Model":
        return {}
    return {"qa_outputs" if head == "ForQuestionAnswering" else "classifier": classifier(hidden, labels)}


def _model(
    config: Config,
    body: dict[str, Part],
    top: dict[str, Part],
    head: str,
    base: str,
    hidden: int,
    vocab: int,
    layers: int,
    tied: bool,
) -> Model:
    if head != "Model":
        body = {f"{base}.{path}": part for path, part in body.items()}
    positions = config.int("max_position_embeddings")
    if base == "mpnet":
        positions = max(1, positions - 1 - MPNET_PADDING)
    return Model(
        parts={**body, **top}, hidden_size=hidden, num_layers=layers, vocab_size=vocab, tied=tied,
        context_length=positions, objective=objective_of(config, head), unplayed=tuple(unplayed_head(config, head)),
    )  # fmt: skip
