"""T5, mT5 and UMT5: an encoder and a decoder that share one embedding, RMSNorm, relative position biases.

Class defaults and structure: transformers 5.23, models/t5, mt5, umt5.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Part, Stack
from oomph.blocks.basic import Embedding, Head, Norm
from oomph.blocks.encoder import EncoderLayer, LayerNames, RelativeAttention
from oomph.blocks.mlp import MLP, GatedMLP
from oomph.config import MAX_DEPTH, Config
from oomph.families.heads import classifier, num_labels, task, two_step_classifier
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "t5": {
        "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8,
        "relative_attention_num_buckets": 32, "feed_forward_proj": "relu",
    },
    "mt5": {
        "vocab_size": 250112, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6,
        "relative_attention_num_buckets": 32, "feed_forward_proj": "gated-gelu",
    },
    "umt5": {
        "vocab_size": 250112, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6,
        "relative_attention_num_buckets": 32, "feed_forward_proj": "gated-gelu",
    },
}  # fmt: skip
_OLD: dict[str, tuple[str, ...]] = {
    "d_model": ("hidden_size",), "num_heads": ("num_attention_heads",), "num_layers": ("num_hidden_layers",),
    "d_kv": ("head_dim",),
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {"t5": _OLD, "mt5": _OLD, "umt5": _OLD}

DROPOUT = 0.1  # dropout_rate
_GENERATION = ("ForConditionalGeneration", "WithLMHeadModel")  # the second is the first's old name
_KNOWN = (
    "Model", "EncoderModel", *_GENERATION, "ForSequenceClassification", "ForTokenClassification",
    "ForQuestionAnswering",
)  # fmt: skip
_ENCODER_ONLY = ("EncoderModel", "ForTokenClassification")
_ENCODER_LAYER = LayerNames(
    "layer.0.SelfAttention", "layer.0.layer_norm", "layer.1.DenseReluDense", "layer.1.layer_norm"
)
_DECODER_LAYER = LayerNames(
    "layer.0.SelfAttention", "layer.0.layer_norm", "layer.2.DenseReluDense", "layer.2.layer_norm",
    "layer.1.EncDecAttention", "layer.1.layer_norm",
)  # fmt: skip


def build(config: Config) -> Model:
    """Return encoder, decoder and head.

    T5 v1.1, flan-t5 and mT5 say tie_word_embeddings false and hold a head of their own. transformers 5 reads that
    key as a scale of the decoder's output and ties the head unless the checkpoint brings one, which they do.
    """
    head = task(config, config.model_type.upper(), _KNOWN, "ForConditionalGeneration")
    hidden, vocab = config.size("d_model"), config.size("vocab_size")
    layers = config.depth("num_layers")
    decoder_layers = 0
    body: dict[str, Part] = {"shared": Embedding(vocab, hidden), **_stack(config, hidden, layers, "encoder")}
    if head not in _ENCODER_ONLY:
        decoder_layers = config.optional_int("num_decoder_layers", high=MAX_DEPTH) or layers
        body.update(_stack(config, hidden, decoder_layers, "decoder"))
    if head in ("ForSequenceClassification", "ForTokenClassification"):
        body = {f"transformer.{path}": part for path, part in body.items()}
    tied = head in _GENERATION and config.bool("tie_word_embeddings", default=True)
    return Model(
        parts={**body, **_top(config, head, hidden, vocab, tied)},
        hidden_size=hidden,
        num_layers=layers + decoder_layers,
        vocab_size=vocab,
        tied=tied,
        context_length=config.optional_int("n_positions"),
        objective="seq2seq-lm" if head in _GENERATION else "",
        unplayed=() if head in _GENERATION else (f"the head of {head}",),
    )


def _stack(config: Config, hidden: int, layers: int, name: str) -> dict[str, Part]:
    """Return one stack; T5 keeps the position biases in its first layer, UMT5 in every layer."""
    first = _layer(config, hidden, name == "decoder", biased=True)
    later = first if config.model_type == "umt5" else _layer(config, hidden, name == "decoder", biased=False)
    return {
        f"{name}.block": Stack((first, *(later,) * (layers - 1))),
        f"{name}.final_layer_norm": Norm(hidden, style="rms mixed"),
    }


def _layer(config: Config, hidden: int, decoder: bool, biased: bool) -> EncoderLayer:
    heads, size, ffn = config.int("num_heads"), config.int("d_kv"), config.int("d_ff")
    buckets = config.int("relative_attention_num_buckets") if biased else 0
    maps: dict[str, Any] = {"qkv": ("q", "k", "v"), "out": "o"}
    rate = config.rate("dropout_rate", DROPOUT)
    attention = RelativeAttention(hidden, heads, heads, size, buckets=buckets, dropout=rate, **maps)
    cross = Attention(hidden, heads, heads, size, dropout=rate, **maps) if decoder else None
    projection = config.str("feed_forward_proj")
    first, *_, activation = projection.split("-") * 2
    activation = "gelu_new" if projection == "gated-gelu" else activation
    mlp: Block = MLP(hidden, ffn, names=("wi", "wo"), activation=activation)
    if first == "gated":
        mlp = GatedMLP(hidden, ffn, names=("wi_0", "wi_1", "wo"), activation=activation)
    names = _DECODER_LAYER if decoder else _ENCODER_LAYER
    return EncoderLayer(attention, mlp, Norm(hidden, style="rms mixed"), names, cross, pre_norm=True, rate=rate)


def _top(config: Config, head: str, hidden: int, vocab: int, tied: bool) -> dict[str, Part]:
    labels = num_labels(config)
    if head in _GENERATION:
        return {"lm_head": Head(hidden, vocab, tied, scaled=tied and config.model_type in ("t5", "umt5"))}
    if head == "ForSequenceClassification":
        return {"classification_head": two_step_classifier(hidden, labels)}
    if head == "ForTokenClassification":
        return {"classifier": classifier(hidden, labels)}
    return {"qa_outputs": classifier(hidden, labels)} if head == "ForQuestionAnswering" else {}
