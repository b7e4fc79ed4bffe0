"""StableLM 3B, 2-1.6B and 2-12B: Llama with LayerNorm, and by the config qkv biases, norms per head, one norm a layer.

Class defaults and structure: transformers 5.23, models/stablelm.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module
from oomph.blocks.basic import Dropout, Norm
from oomph.blocks.head_norm import ListedHeadNorm
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.families.common import causal_lm, rotary_dim
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "stablelm": {
        "vocab_size": 50304, "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
}  # fmt: skip
QUARTER = 0.25  # of a head's channels are turned


def build(config: Config) -> Model:
    """Return the decoder; with use_parallel_residual attention and MLP share one norm."""
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    attention = Attention(
        hidden,
        heads,
        config.int("num_key_value_heads"),
        config.divide(hidden, heads, "attention heads"),
        qkv_bias=config.bool("use_qkv_bias"),
        dropout=config.rate("attention_dropout", 0.0),
        norm_place="per head",
        rotary="stablelm",
    )
    attention = replace(attention, rotary_dim=rotary_dim(config, attention.head_dim, QUARTER))
    if config.bool("qk_layernorm"):
        attention = replace(
            attention,
            q_norm=ListedHeadNorm(heads, attention.head_dim),
            k_norm=ListedHeadNorm(attention.num_kv_heads, attention.head_dim),
            norms=("q_layernorm", "k_layernorm"),
        )
    norm = Norm(hidden, bias=True)
    layer = Module(
        {
            "self_attn": attention,
            "mlp": GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu")),
            "dropout": Dropout(config.rate("hidden_dropout", 0.0)),
            "input_layernorm": norm,
            "post_attention_layernorm": None if config.bool("use_parallel_residual") else norm,
        }
    )
    return causal_lm(config, (layer,) * config.depth("num_hidden_layers"), norm)
