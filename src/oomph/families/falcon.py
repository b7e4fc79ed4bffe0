"""Falcon 1 and 2: fused qkv with one, a few or all key/value heads, plain MLP, one or two norms a layer, tied head.

Class defaults and structure: transformers 5.23, models/falcon. Falcon 3 is llama.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Layer
from oomph.blocks.basic import Buffer, Dropout, Norm, UnfusedLinear
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.families.common import causal_lm
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "falcon": {
        "vocab_size": 65024, "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
        "max_position_embeddings": 2048, "tie_word_embeddings": True, "multi_query": True, "parallel_attn": True,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {"falcon": {"hidden_size": ("n_embed",)}}


def build(config: Config) -> Model:
    """Return the decoder; ffn_hidden_size null or absent means 4·H."""
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    bias = config.bool("bias")
    grouped, parallel = config.bool("new_decoder_architecture"), config.bool("parallel_attn")
    attention = Attention(
        hidden, heads, key_value_heads(config, heads), config.divide(hidden, heads, "attention heads"),
        qkv_bias=bias, out_bias=bias, qkv=("query_key_value",), out="dense",
        dropout=config.rate("attention_dropout", 0.0),
        layout="grouped" if grouped else "multi-query" if config.bool("multi_query") else "multi-head",
        linear=UnfusedLinear,
    )  # fmt: skip
    ffn = config.optional_int("ffn_hidden_size") or 4 * hidden
    activation = config.str("activation", "gelu")
    layer = Layer(
        {
            "self_attention": attention,
            "mlp": MLP(
                hidden, ffn, bias, names=("dense_h_to_4h", "dense_4h_to_h"), activation=activation, linear=UnfusedLinear
            ),
            **{name: Norm(hidden, bias=True) for name in norm_names(config)},
            "hidden_dropout": Dropout(config.rate("hidden_dropout", 0.0)),
        },
        parallel=parallel,
    )
    return causal_lm(
        config,
        (layer,) * config.depth("num_hidden_layers"),
        Norm(hidden, bias=True),
        embed="transformer.word_embeddings",
        extra={"transformer.alibi": Buffer(())} if config.bool("alibi") else None,
        stack="transformer.h",
        norm="transformer.ln_f",
    )


def key_value_heads(config: Config, heads: int) -> int:
    """Return num_kv_heads in the new architecture; in the old one 1 with multi_query, else all."""
    if config.bool("new_decoder_architecture"):
        return config.optional_int("num_kv_heads") or heads
    return 1 if config.bool("multi_query") else heads


def norm_names(config: Config) -> tuple[str, ...]:
    """Return the norms of a layer: shared, or one each for attention and MLP."""
    if not config.bool("parallel_attn"):
        return ("post_attention_layernorm", "input_layernorm")
    usual = 2 if config.bool("new_decoder_architecture") else 1
    apart = (config.optional_int("num_ln_in_parallel_attn") or usual) == 2
    return ("ln_attn", "ln_mlp") if apart else ("input_layernorm",)
