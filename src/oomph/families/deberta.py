"""DeBERTa-v2 and v3: BERT's names, attention that also scores relative positions, perhaps a convolution.

Class defaults and structure: transformers 5.23, models/deberta_v2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module, Part, Parts, Stack
from oomph.blocks.basic import Buffer, Conv, Dropout, Embedding, Linear, Norm
from oomph.blocks.encoder import EncoderLayer, LayerNames, MaskedHead
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.families.heads import (
    CLASSIFIER,
    MASKER,
    classifier,
    num_labels,
    objective_of,
    table,
    task,
    unplayed_head,
)
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "deberta-v2": {
        "vocab_size": 128100, "hidden_size": 1536, "num_hidden_layers": 24, "num_attention_heads": 24,
        "intermediate_size": 6144, "max_position_embeddings": 512, "type_vocab_size": 0,
        "relative_attention": False, "max_relative_positions": -1, "position_biased_input": True, "legacy": True,
        "tie_word_embeddings": True,
    },
}  # fmt: skip

_KNOWN = (
    "Model", "ForMaskedLM", "ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification",
    "ForQuestionAnswering",
)  # fmt: skip
DROPOUT = 0.1  # hidden_dropout_prob and attention_probs_dropout_prob
_LAYER = LayerNames("attention", "attention.output.LayerNorm", "", "output.LayerNorm")


@dataclass(frozen=True)
class DisentangledAttention(Attention):
    """Attention that also scores relative positions: contents with them, them with contents, both or neither.

    `content_to_position` and `position_to_content` say which maps of positions there are, the scores which of them are
    used: with `shares_maps` positions go through those of contents. `position_rate` is the dropout on positions;
    `bucketed`: distances are told apart by their logarithm.
    """

    content_to_position: bool = False
    position_to_content: bool = False
    scores_content_to_position: bool = False
    scores_position_to_content: bool = False
    shares_maps: bool = False
    bucketed: bool = False
    position_rate: float = 0.0

    @property
    def parts(self) -> Parts:
        """The maps and those of the positions."""
        position = Linear(self.hidden_size, self.num_heads * self.head_dim, bias=True)
        maps = dict(super().parts)
        out = maps.pop(self.out)
        return {
            **maps,
            "self.pos_key_proj": position if self.content_to_position else None,
            "self.pos_query_proj": position if self.position_to_content else None,
            self.out: out,
        }


@dataclass(frozen=True)
class _Pooler(Block):
    """Dropout, a map of the first token's state, an activation."""

    size: int
    rate: float
    activation: str
    kind: str = "other"

    @property
    def parts(self) -> Parts:
        """Map and dropout."""
        return {"dense": Linear(self.size, self.size, bias=True), "dropout": Dropout(self.rate)}


def build(config: Config) -> Model:
    """Return the encoder with the head its architecture names."""
    head = task(config, "DebertaV2", _KNOWN, "ForMaskedLM")
    hidden, vocab = config.size("hidden_size"), config.size("vocab_size")
    width = config.optional_int("embedding_size") or hidden
    # The newer head (legacy false) has no matrix of its own: it reads the embedding whatever the config says.
    borrows = config.bool("tie_word_embeddings") or not config.bool("legacy")
    tied = head == "ForMaskedLM" and borrows
    types = config.int("type_vocab_size", low=0)
    placed = config.bool("position_biased_input")
    body: dict[str, Part] = {
        "embeddings.word_embeddings": Embedding(vocab, width),
        "embeddings.position_embeddings": table(config.int("max_position_embeddings"), width) if placed else None,
        "embeddings.token_type_embeddings": table(types, width) if types else None,
        "embeddings.embed_proj": Linear(width, hidden) if width != hidden else None,
        "embeddings.LayerNorm": Norm(hidden, bias=True),
        "embeddings.dropout": Dropout(config.rate("hidden_dropout_prob", DROPOUT)),
        "embeddings.position_ids": Buffer((1, config.int("max_position_embeddings")), "int64"),
        **_encoder(config, hidden),
    }
    if head != "Model":
        body = {f"deberta.{path}": part for path, part in body.items()}
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
    """Yield what the tape has no rule for: other heads and losses, a convolution, heads of a size of their own."""
    yield from unplayed_head(config, head)
    if head == CLASSIFIER and config.str("problem_type"):
        yield "problem_type"
    if head == MASKER and not config.bool("legacy"):
        yield "the newer head (legacy: false)"
    if head == MASKER and not config.bool("tie_word_embeddings"):
        yield "a head of its own table, whose second bias never gets a gradient"
    if config.optional_int("conv_kernel_size", low=0):
        yield "conv_kernel_size"
    if not config.bool("relative_attention") and "layer_norm" in _words(config.str("norm_rel_ebd", "none")):
        yield "a norm of relative positions that are not there"
    if config.get("attention_head_size") is not None:
        yield "attention_head_size"


def _encoder(config: Config, hidden: int) -> dict[str, Part]:
    """Return the layers and what the encoder keeps beside them: relative positions, their norm, a convolution."""
    heads = config.int("num_attention_heads")
    relative = config.bool("relative_attention")
    scored, shares = _position_scores(config) if relative else [], config.bool("share_att_key")
    scores = () if shares else scored
    rate = config.rate("hidden_dropout_prob", DROPOUT)
    attention = DisentangledAttention(
        hidden, heads, heads, config.divide(hidden, heads, "attention heads"), qkv_bias=True, out_bias=True,
        qkv=("self.query_proj", "self.key_proj", "self.value_proj"), out="output.dense",
        content_to_position="c2p" in scores, position_to_content="p2c" in scores,
        scores_content_to_position="c2p" in scored, scores_position_to_content="p2c" in scored, shares_maps=shares,
        bucketed=(config.optional_int("position_buckets", low=-1) or -1) > 0, position_rate=rate,
        dropout=config.rate("attention_probs_dropout_prob", DROPOUT),
    )  # fmt: skip
    names = ("intermediate.dense", "output.dense")
    activation = config.str("hidden_act", "gelu")
    mlp = MLP(hidden, config.int("intermediate_size"), bias=True, names=names, activation=activation)
    layer = EncoderLayer(attention, mlp, Norm(hidden, bias=True), _LAYER, rate=rate)
    normed = "layer_norm" in _words(config.str("norm_rel_ebd", "none"))
    return {
        "encoder.layer": Stack.of(layer, config.depth("num_hidden_layers")),
        "encoder.rel_embeddings": table(_relative_rows(config), hidden) if relative else None,
        "encoder.LayerNorm": Norm(hidden, bias=True) if normed else None,
        "encoder.conv": _conv(config, hidden),
    }


def _conv(config: Config, hidden: int) -> Module | None:
    """Return the convolution beside the first layer, if there is one."""
    kernel = config.optional_int("conv_kernel_size", low=0)
    if not kernel:
        return None
    groups = config.optional_int("conv_groups") or 1
    config.divide(hidden, groups, "groups")
    conv = Conv(hidden, hidden, (kernel,), groups, bias=True)
    return Module({"conv": conv, "LayerNorm": Norm(hidden, bias=True)}, "other")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.lower().split("|")]


def _position_scores(config: Config) -> list[str]:
    """Return pos_att_type, which is a list or a string such as "p2c|c2p"."""
    value = config.get("pos_att_type")
    return _words(value) if isinstance(value, str) else [str(one) for one in config.list("pos_att_type") or []]


def _relative_rows(config: Config) -> int:
    """Return both directions of the distances told apart."""
    buckets = config.optional_int("position_buckets", low=-1) or -1
    farthest = config.int("max_relative_positions", low=-1)
    if farthest < 1:
        farthest = config.int("max_position_embeddings")
    return 2 * (buckets if buckets > 0 else farthest)


def _top(config: Config, head: str, hidden: int, width: int, vocab: int, tied: bool) -> dict[str, Part]:
    if head == "ForMaskedLM":
        if not config.bool("legacy"):
            names = ("dense", "LayerNorm", "decoder")
            return {"lm_predictions.lm_head": MaskedHead(hidden, hidden, vocab, tied, names)}
        names = ("transform.dense", "transform.LayerNorm", "decoder")
        return {
            "cls.predictions": MaskedHead(
                hidden, width, vocab, tied, names, activation=config.str("hidden_act", "gelu")
            )
        }
    if head == "Model":
        return {}
    labels = num_labels(config)
    if head == "ForQuestionAnswering":
        return {"qa_outputs": classifier(hidden, labels)}
    if head == "ForTokenClassification":
        return {"classifier": classifier(hidden, labels)}
    pooled = config.optional_int("pooler_hidden_size") or hidden
    rate = config.rate("cls_dropout", config.rate("hidden_dropout_prob", DROPOUT))
    return {
        "pooler": _Pooler(pooled, config.rate("pooler_dropout", 0.0), config.str("pooler_hidden_act", "gelu")),
        "classifier": classifier(hidden, 1 if head == "ForMultipleChoice" else labels),
        "dropout": Dropout(rate),
    }
