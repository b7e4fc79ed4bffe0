"""StarCoder2: grouped-query attention, plain MLP, LayerNorm, one key for the biases of all maps, tied head.

Class defaults and structure: transformers 5.23, models/starcoder2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Module
from oomph.blocks.basic import Dropout, Norm
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.families.common import causal_lm
from oomph.families.llama import grouped_attention
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "starcoder2": {
        "vocab_size": 49152, "hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30,
        "num_attention_heads": 24, "num_key_value_heads": 2, "max_position_embeddings": 4096, "use_bias": True,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


def build(config: Config) -> Model:
    """Return the decoder, every layer the same."""
    hidden, bias = config.size("hidden_size"), config.bool("use_bias")
    norm, dropout = Norm(hidden, bias=True), Dropout(config.rate("residual_dropout", 0.0))
    attention = grouped_attention(config, hidden, qkv_bias=bias, out_bias=bias, resid_dropout=dropout)
    layer = Module(
        {
            "self_attn": replace(attention, sliding_window=config.optional_int("sliding_window")),
            "mlp": MLP(
                hidden,
                config.int("intermediate_size"),
                bias,
                names=("c_fc", "c_proj"),
                dropout=dropout,
                activation=config.str("hidden_act", "gelu_pytorch_tanh"),
            ),
            "input_layernorm": norm,
            "post_attention_layernorm": norm,
        }
    )
    extra = {"model.embedding_dropout": Dropout(config.rate("embedding_dropout", 0.0))}
    return causal_lm(config, (layer,) * config.depth("num_hidden_layers"), norm, extra=extra)
