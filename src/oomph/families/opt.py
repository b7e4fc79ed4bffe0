"""OPT, XGLM and BioGPT, the decoders that came from fairseq: biases everywhere, MLP maps beside attention, tied head.

OPT and BioGPT learn their positions, in a table two rows longer than the context (fairseq kept rows for padding);
XGLM computes them. OPT-350m embeds in fewer dimensions than it works in.
Class defaults and structure: transformers 5.23, models/opt, xglm, biogpt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module, Part, Stack
from oomph.blocks.basic import Dropout, Embedding, Linear, Norm, Sinusoids
from oomph.config import Config
from oomph.families.common import causal_lm, objective, output_head
from oomph.families.heads import other_problem
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "opt": {
        "vocab_size": 50272, "hidden_size": 768, "num_hidden_layers": 12, "ffn_dim": 3072,
        "num_attention_heads": 12, "max_position_embeddings": 2048, "tie_word_embeddings": True,
        "do_layer_norm_before": True, "enable_bias": True, "layer_norm_elementwise_affine": True,
    },
    "xglm": {
        "vocab_size": 256008, "hidden_size": 1024, "num_hidden_layers": 24, "ffn_dim": 4096,
        "num_attention_heads": 16, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    },
    "biogpt": {
        "vocab_size": 42384, "hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096,
        "num_attention_heads": 16, "max_position_embeddings": 1024, "tie_word_embeddings": True,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "xglm": {
        "hidden_size": ("d_model",), "num_hidden_layers": ("num_layers",),
        "num_attention_heads": ("attention_heads",),
    },
}  # fmt: skip
PADDING_ROWS = 2
DROPOUT = 0.1  # dropout of every class here


@dataclass(frozen=True)
class Keys:
    """How a config spells what drops and activates, and the class's defaults where they differ."""

    dropout: str = "dropout"
    attention_dropout: str = "attention_dropout"
    attention_rate: float = 0.0
    activation: str = "activation_function"
    default_activation: str = "relu"


OPT = Keys()
KEYS = {
    "xglm": Keys(attention_rate=0.1, default_activation="gelu"),
    "biogpt": Keys("hidden_dropout_prob", "attention_probs_dropout_prob", 0.1, "hidden_act", "gelu"),
}


@dataclass(frozen=True, eq=False)
class FairseqLayer(Module):
    """A layer with the maps of its MLP beside attention; norms stand before both or, with `pre_norm` False, after."""

    activation: str = "relu"
    pre_norm: bool = True


def build(config: Config) -> Model:
    """Return the decoder of one of the three."""
    if config.model_type == "opt":
        return opt(config)
    hidden = config.size("hidden_size")
    ffn = config.int("ffn_dim" if config.model_type == "xglm" else "intermediate_size")
    one = layer(config, hidden, ffn, Norm(hidden, bias=True), bias=True, keys=KEYS[config.model_type])
    layers = (one,) * config.depth("num_hidden_layers")
    left_out = tuple(unplayed(config))
    if config.model_type == "xglm":
        table = Sinusoids(config.int("max_position_embeddings") + PADDING_ROWS, hidden)
        return causal_lm(
            config,
            layers,
            Norm(hidden, bias=True),
            extra={"model.embed_positions": table},
            norm="model.layer_norm",
            unplayed=left_out,
        )
    return causal_lm(
        config,
        layers,
        Norm(hidden, bias=True),
        embed="biogpt.embed_tokens",
        extra={"biogpt.embed_positions": positions(config, hidden)},
        stack="biogpt.layers",
        norm="biogpt.layer_norm",
        head="output_projection",
        unplayed=left_out,
    )


def opt(config: Config) -> Model:
    """Return OPT; project_in and project_out stand where the embedding is narrower than the layers."""
    hidden, vocab = config.size("hidden_size"), config.size("vocab_size")
    width = config.optional_int("word_embed_proj_dim") or hidden
    norm = Norm(hidden, bias=True) if config.bool("layer_norm_elementwise_affine") else None
    depth, tied = config.depth("num_hidden_layers"), config.bool("tie_word_embeddings")
    final = config.bool("do_layer_norm_before") and not config.bool("_remove_final_layer_norm")
    one = layer(config, hidden, config.int("ffn_dim"), norm, config.bool("enable_bias"))
    one = replace(one, pre_norm=config.bool("do_layer_norm_before"))
    decoder: dict[str, Part] = {
        "embed_tokens": Embedding(vocab, width),
        "embed_positions": positions(config, hidden),
        "project_out": Linear(hidden, width) if width != hidden else None,
        "project_in": Linear(width, hidden) if width != hidden else None,
        "final_layer_norm": norm if final else None,
        "layers": Stack((one,) * depth),
    }
    head = output_head(config, width, vocab, tied, "lm_head", bias=False)
    return Model(
        parts={**{f"model.decoder.{name}": part for name, part in decoder.items()}, **head},
        hidden_size=hidden,
        num_layers=depth,
        vocab_size=vocab,
        tied=tied and "lm_head" in head,
        context_length=config.int("max_position_embeddings"),
        unplayed=(*unplayed(config), *(other_problem(config) if "score" in head else ())),
        objective=objective(head),
    )


def unplayed(config: Config) -> Iterator[str]:
    """Yield what the tape has no rule for: norms without weights, layers left out at random."""
    if config.model_type == "opt" and not config.bool("layer_norm_elementwise_affine"):
        yield "layer_norm_elementwise_affine=false"
    if config.rate("layerdrop", 0.0):
        yield "layerdrop"


def positions(config: Config, hidden: int) -> Embedding:
    """Return the learned table of positions."""
    return Embedding(config.int("max_position_embeddings") + PADDING_ROWS, hidden, kind="position_embedding")


def layer(config: Config, hidden: int, ffn: int, norm: Norm | None, bias: bool, keys: Keys = OPT) -> FairseqLayer:
    """Return one layer; the MLP's maps are the layer's own members."""
    heads = config.int("num_attention_heads")
    width = config.divide(hidden, heads, "attention heads")
    return FairseqLayer(
        {
            "self_attn": Attention(
                hidden, heads, heads, width, qkv_bias=bias, out_bias=bias, out="out_proj",
                qkv=("k_proj", "v_proj", "q_proj"),
                dropout=config.rate(keys.attention_dropout, keys.attention_rate),
            ),
            "self_attn_layer_norm": norm,
            "fc1": Linear(hidden, ffn, bias, kind="mlp"),
            "fc2": Linear(ffn, hidden, bias, kind="mlp"),
            "final_layer_norm": norm,
            "dropout": Dropout(config.rate(keys.dropout, DROPOUT)),
            "activation_dropout": Dropout(config.rate("activation_dropout", 0.0)),
        },
        activation=config.str(keys.activation, keys.default_activation),
    )  # fmt: skip
