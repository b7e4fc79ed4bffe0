"""Rotary BERTs: Nomic-BERT, GTE and Jina embeddings v3. Post-norm, no position table, no final norm.

Class defaults and structure: transformers 5.23, models/nomic_bert, gte, jina_embeddings_v3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Part, Stack
from oomph.blocks.basic import Dropout, Embedding, Linear, Norm
from oomph.blocks.encoder import AttentionThirdLayer, EncoderLayer, LayerNames, MaskedHead
from oomph.blocks.mlp import MLP, GatedMLP
from oomph.blocks.tabled_attention import with_tables
from oomph.config import Config
from oomph.errors import UnsupportedError
from oomph.families.common import head_dim
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
    "nomic_bert": {
        "vocab_size": 30528, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "max_position_embeddings": 2048, "type_vocab_size": 2,
        "tie_word_embeddings": True,
    },
    "gte": {
        "vocab_size": 250048, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "max_position_embeddings": 8192, "type_vocab_size": 1,
        "tie_word_embeddings": True,
    },
    "jina_embeddings_v3": {
        "vocab_size": 250002, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096, "max_position_embeddings": 8194, "type_vocab_size": 1,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
# Nomic's own code, older than the class, spells its config as GPT-2 does.
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "nomic_bert": {
        "hidden_size": ("n_embd",), "num_hidden_layers": ("n_layer",), "num_attention_heads": ("n_head",),
        "intermediate_size": ("n_inner",), "max_position_embeddings": ("n_positions",),
    },
}  # fmt: skip

_PREFIX = {
    "nomic_bert": ("NomicBert", "nomic_bert"),
    "gte": ("Gte", "gte"),
    "jina_embeddings_v3": ("JinaEmbeddingsV3", "roberta"),
}
_KNOWN = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
_LAYER = LayerNames("self_attn", "post_attention_layernorm", "mlp", "post_mlp_layernorm")
# What Nomic's own code can do and the class cannot: key, the values that mean "as the class".
_NOMIC_FIXED: dict[str, tuple[object, ...]] = {
    "activation_function": ("swiglu",), "qkv_proj_bias": (False,), "mlp_fc1_bias": (False,),
    "mlp_fc2_bias": (False,), "prenorm": (False,), "use_rms_norm": (False, None), "rotary_emb_fraction": (1.0,),
    "num_experts": (0, 1, None),
}  # fmt: skip


def build(config: Config) -> Model:
    """Return the encoder with the head its architecture names."""
    prefix, base = _PREFIX[config.model_type]
    known = (*_KNOWN, "ForQuestionAnswering") if base == "roberta" else _KNOWN
    head = task(config, prefix, known, "ForMaskedLM")
    if config.model_type == "nomic_bert":
        _refuse_other_nomic(config)
    hidden, vocab = config.size("hidden_size"), config.size("vocab_size")
    tied = head == "ForMaskedLM" and config.bool("tie_word_embeddings")
    # Jina's classes declare the head before the model: the tied table is stored as the head's.
    borrowed = tied and base == "roberta"
    types = config.int("type_vocab_size", low=0)
    body: dict[str, Part] = {
        "embeddings.word_embeddings": None if borrowed else Embedding(vocab, hidden),
        "embeddings.token_type_embeddings": table(types, hidden) if types or base != "gte" else None,
        "embeddings.LayerNorm": Norm(hidden, bias=True),
        "embeddings.dropout": Dropout(config.rate("hidden_dropout_prob", 0.0)),
        "pooler": pooler(hidden) if _pooled(base, head) else None,
        "layers": Stack.of(_layer(config, base, hidden), config.depth("num_hidden_layers")),
    }
    if head != "Model":
        body = {f"{base}.{path}": part for path, part in body.items()}
    top = _top(config, base, head, hidden, vocab, tied)
    return Model(
        parts={**top, **body} if borrowed else {**body, **top},
        hidden_size=hidden,
        num_layers=config.depth("num_hidden_layers"),
        vocab_size=vocab,
        tied=tied,
        context_length=config.int("max_position_embeddings"),
        objective=objective_of(config, head) if base == "nomic_bert" else "",
        unplayed=tuple(unplayed_head(config, head)) if base == "nomic_bert" else (),
    )


def _refuse_other_nomic(config: Config) -> None:
    for key, same in _NOMIC_FIXED.items():
        if config.has(key) and config.get(key) not in same:
            raise UnsupportedError(
                f"oomph does not know a nomic_bert with {key} {str(config.get(key))[:40]!r}.",
                "It runs on code of its own; weigh it from the headers of its weights.",
            )


def _pooled(base: str, head: str) -> bool:
    if base == "roberta":
        return head == "Model"
    return head == "ForSequenceClassification"


def _layer(config: Config, base: str, hidden: int) -> EncoderLayer:
    heads, ffn = config.int("num_attention_heads"), config.int("intermediate_size")
    bias = base != "nomic_bert"
    attention = Attention(
        hidden, heads, heads, head_dim(config, hidden, heads), qkv_bias=bias, out_bias=bias,
        dropout=config.rate("attention_probs_dropout_prob", 0.0),
    )  # fmt: skip
    mlp: Block = GatedMLP(hidden, ffn, activation=config.str("hidden_act", "silu"))
    if base == "nomic_bert":
        tabled = with_tables(attention, config.int("max_position_embeddings"))
        rate = config.rate("hidden_dropout_prob", 0.0)
        return AttentionThirdLayer(tabled, mlp, Norm(hidden, bias=True), _LAYER, rate=rate)
    if base == "gte":
        mlp = DownBiasedMLP(hidden, ffn)
    elif base == "roberta":
        mlp = MLP(hidden, ffn, bias=True, names=("fc1", "fc2"))
    return EncoderLayer(attention, mlp, Norm(hidden, bias=True), _LAYER)


@dataclass(frozen=True)
class DownBiasedMLP(GatedMLP):
    """A gated MLP whose down map alone has a bias (GTE)."""

    @property
    def parts(self) -> dict[str, Part]:
        """Gate and up without, down with bias."""
        return {**super().parts, self.names[-1]: Linear(self.ffn_size, self.hidden_size, bias=True)}


def _top(config: Config, base: str, head: str, hidden: int, vocab: int, tied: bool) -> dict[str, Part]:
    labels = num_labels(config)
    if head == "ForMaskedLM" and base == "nomic_bert":
        names = ("transform.dense", "transform.layer_norm", "decoder")
        activation = config.str("hidden_act", "silu")
        return {"cls.predictions": MaskedHead(hidden, hidden, vocab, tied, names, activation=activation)}
    if head == "ForMaskedLM":
        second = "" if base == "gte" else "bias"
        return {"lm_head": MaskedHead(hidden, hidden, vocab, tied, bias=second, stores_table=base == "roberta")}
    if head == "ForSequenceClassification" and base == "roberta":
        return {"classifier": two_step_classifier(hidden, labels)}
    if head == "Model":
        return {}
    if head == "ForQuestionAnswering":
        return {"qa_outputs": classifier(hidden, labels)}
    rate = config.rate("classifier_dropout", config.rate("hidden_dropout_prob", 0.0))
    return {"dropout": Dropout(rate) if base == "nomic_bert" else None, "classifier": classifier(hidden, labels)}
