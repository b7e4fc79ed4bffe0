"""GPT-Neo: GPT-2 with separate, unbiased q, k, v and Linear maps.

Class defaults and structure: transformers 5.23, models/gpt_neo.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module
from oomph.blocks.basic import Dropout, Embedding, Norm
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.families.common import causal_lm
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "gpt_neo": {
        "vocab_size": 50257, "max_position_embeddings": 2048, "hidden_size": 2048, "num_hidden_layers": 24,
        "num_attention_heads": 16, "tie_word_embeddings": True,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "gpt_neo": {"num_hidden_layers": ("num_layers",), "num_attention_heads": ("num_heads",)},
}


def build(config: Config) -> Model:
    """Return the decoder; intermediate_size null or absent means 4·H. Local layers hold the same weights."""
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    norm, dropout = Norm(hidden, bias=True), Dropout(config.rate("resid_dropout", 0.0))
    attention = Attention(
        hidden, heads, heads, config.divide(hidden, heads, "attention heads"),
        qkv=("k_proj", "v_proj", "q_proj"), out_bias=True, out="out_proj",
        dropout=config.rate("attention_dropout", 0.0), resid_dropout=dropout,
    )  # fmt: skip
    ffn = config.optional_int("intermediate_size") or 4 * hidden
    layer = Module(
        {
            "ln_1": norm,
            "attn": Module({"attention": attention}),
            "ln_2": norm,
            "mlp": MLP(
                hidden, ffn, bias=True, names=("c_fc", "c_proj"), dropout=dropout,
                activation=config.str("activation_function", "gelu_new"),
            ),
        }
    )  # fmt: skip
    positions = Embedding(config.int("max_position_embeddings"), hidden, kind="position_embedding")
    return causal_lm(
        config,
        (layer,) * config.depth("num_hidden_layers"),
        norm,
        embed="transformer.wte",
        extra={"transformer.wpe": positions, "transformer.drop": Dropout(config.rate("embed_dropout", 0.0))},
        stack="transformer.h",
        norm="transformer.ln_f",
    )
