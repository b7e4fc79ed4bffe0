"""ModernBERT and EuroBERT: encoders built like decoders (rotary, gated MLP, pre-norm).

Class defaults and structure: transformers 5.23, models/modernbert and models/eurobert.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module, Part, Stack
from oomph.blocks.basic import Dropout, Embedding, Head, Linear, Norm
from oomph.blocks.encoder import LocalAttention, PredictionHead, UncachedAttention
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.families.common import RESCALED, head_dim
from oomph.families.heads import CLASSIFIER, classifier, num_labels, objective_of, task, unplayed_head
from oomph.families.layer_types import FULL, SLIDING, listed
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "modernbert": {
        "vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
        "num_attention_heads": 12, "max_position_embeddings": 8192, "norm_bias": False, "attention_bias": False,
        "mlp_bias": False, "decoder_bias": True, "classifier_bias": False, "tie_word_embeddings": True,
        "local_attention": 128, "sparse_prediction": False,
    },
    "eurobert": {
        "vocab_size": 128256, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 8192, "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": False,
    },
}  # fmt: skip

FULL_EVERY = 3  # layers, where a config does not say how often attention is full
_KNOWN = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
_MODERN = (*_KNOWN, "ForQuestionAnswering", "ForMultipleChoice")


def build(config: Config) -> Model:
    """Return the encoder with the head its architecture names."""
    modern = config.model_type == "modernbert"
    known, prefix = (_MODERN, "ModernBert") if modern else (_KNOWN, "EuroBert")
    head = task(config, prefix, known, "ForMaskedLM")
    hidden, vocab = config.size("hidden_size"), config.size("vocab_size")
    tied = head == "ForMaskedLM" and config.bool("tie_word_embeddings")
    body = _modern_body(config, hidden, vocab) if modern else _euro_body(config, hidden, vocab)
    if head != "Model":
        body = {f"model.{path}": part for path, part in body.items()}
    top = _modern_top if modern else _euro_top
    return Model(
        parts={**body, **top(config, head, hidden, vocab, tied)},
        hidden_size=hidden,
        num_layers=config.depth("num_hidden_layers"),
        vocab_size=vocab,
        tied=tied,
        context_length=config.int("max_position_embeddings"),
        objective=objective_of(config, head) if modern else "",
        unplayed=tuple(_unplayed(config, head)) if modern else (),
    )


def _unplayed(config: Config, head: str) -> Iterator[str]:
    """Yield what the tape has no rule for: other heads, only tokens with labels scored, frequencies changed anew."""
    yield from unplayed_head(config, head)
    if config.bool("sparse_prediction"):
        yield "sparse_prediction"
    ropes = [config.section("rope_scaling"), *config.section("rope_parameters").values()]
    kinds = {str(rope.get("rope_type", rope.get("type", "default"))) for rope in ropes if isinstance(rope, Mapping)}
    yield from (f"rope_type={kind[:40]}" for kind in sorted(kinds & set(RESCALED)))


def _modern_body(config: Config, hidden: int, vocab: int) -> dict[str, Part]:
    """Return embedding, layers and final norm. The first layer has no norm: the embedding has just been normed."""
    heads, layers = config.int("num_attention_heads"), config.depth("num_hidden_layers")
    attention_bias, mlp_bias = config.bool("attention_bias"), config.bool("mlp_bias")
    norm, rate = _norm(config, hidden), config.rate("attention_dropout", 0.0)
    attention = LocalAttention(
        hidden, heads, heads, config.divide(hidden, heads, "attention heads"), qkv_bias=attention_bias,
        out_bias=attention_bias, qkv=("Wqkv",), out="Wo", dropout=rate, resid_dropout=Dropout(rate) if rate else None,
        rotary="modernbert", window=config.int("local_attention") // 2,
    )  # fmt: skip
    activation, dropout = config.str("hidden_activation", "gelu"), Dropout(config.rate("mlp_dropout", 0.0))
    names = ("Wi", "Wo")
    mlp = GatedMLP(
        hidden, config.int("intermediate_size"), mlp_bias, names=names, activation=activation, dropout=dropout
    )
    kinds = _kinds(config, layers)
    parts: dict[str, Part] = {"attn_norm": norm, "attn": attention, "mlp_norm": norm, "mlp": mlp}
    layer = {kind: Module({**parts, "attn": replace(attention, slides=kind == SLIDING)}) for kind in (FULL, SLIDING)}
    first = Module({**layer[kinds[0]].parts, "attn_norm": None})
    return {
        "embeddings.tok_embeddings": Embedding(vocab, hidden),
        "embeddings.norm": norm,
        "embeddings.drop": Dropout(config.rate("embedding_dropout", 0.0)),
        "layers": Stack((first, *(layer[kind] for kind in kinds[1:]))),
        "final_norm": norm,
    }


def _norm(config: Config, hidden: int) -> Norm:
    """Return a LayerNorm, with or without a bias."""
    return Norm(hidden, config.bool("norm_bias"), style="layer")


def _kinds(config: Config, layers: int) -> list[str]:
    """Return the kind of every layer: listed, or full attention in every so many, the first included."""
    interval = config.optional_int("global_attn_every_n_layers") or FULL_EVERY
    found = listed(config, layers, allowed=(SLIDING, FULL))
    return found or [SLIDING if index % interval else FULL for index in range(layers)]


def _modern_top(config: Config, head: str, hidden: int, vocab: int, tied: bool) -> dict[str, Part]:
    """Return the prediction head, which every task but the bare model has, and the task's own map."""
    if head == "Model":
        return {}
    dense_bias, norm_bias = config.bool("classifier_bias"), config.bool("norm_bias")
    activation = config.str("classifier_activation", "gelu")
    if head == "ForMaskedLM":
        steps = PredictionHead(hidden, dense_bias, norm_bias, activation)
        return {"head": steps, "decoder": Head(hidden, vocab, tied, config.bool("decoder_bias"))}
    labels = 1 if head == "ForMultipleChoice" else num_labels(config)
    pooling = config.str("classifier_pooling", "cls")
    return {
        "head": PredictionHead(hidden, dense_bias, norm_bias, activation, pooling if head == CLASSIFIER else ""),
        "drop": Dropout(config.rate("classifier_dropout", 0.0)),
        "classifier": classifier(hidden, labels),
    }


def _euro_body(config: Config, hidden: int, vocab: int) -> dict[str, Part]:
    """Return a Llama without its head."""
    heads = config.int("num_attention_heads")
    kv_heads = config.optional_int("num_key_value_heads") or heads
    bias = config.bool("attention_bias")
    layer: Block = Module(
        {
            "self_attn": UncachedAttention(
                hidden, heads, kv_heads, head_dim(config, hidden, heads), qkv_bias=bias, out_bias=bias
            ),
            "mlp": GatedMLP(hidden, config.int("intermediate_size"), config.bool("mlp_bias")),
            "input_layernorm": Norm(hidden),
            "post_attention_layernorm": Norm(hidden),
        }
    )
    return {
        "embed_tokens": Embedding(vocab, hidden),
        "layers": Stack.of(layer, config.depth("num_hidden_layers")),
        "norm": Norm(hidden),
    }


def _euro_top(config: Config, head: str, hidden: int, vocab: int, tied: bool) -> dict[str, Part]:
    if head == "Model":
        return {}
    if head == "ForMaskedLM":  # the class asks mlp_bias whether the head has a bias
        return {"lm_head": Head(hidden, vocab, tied, config.bool("mlp_bias"))}
    pooled = Linear(hidden, hidden, bias=True) if head == "ForSequenceClassification" else None
    return {"dense": pooled, "classifier": classifier(hidden, num_labels(config))}
