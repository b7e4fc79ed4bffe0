"""Llama with a plain MLP in place of the gated one: Nemotron/Minitron, Arcee AFM, Jais 2, nanochat.

Class defaults and structure: transformers 5.23, models/nemotron, arcee, jais2, nanochat.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module
from oomph.blocks.basic import BareNorm, Norm
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.families.common import causal_lm, rotary_dim, with_head
from oomph.families.llama import grouped_attention
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "nemotron": {
        "vocab_size": 256000, "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 32,
        "num_attention_heads": 48, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    },
    "arcee": {
        "vocab_size": 32000, "hidden_size": 2560, "intermediate_size": 18432, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    },
    "jais2": {
        "vocab_size": 150272, "hidden_size": 3328, "intermediate_size": 26624, "num_hidden_layers": 32,
        "num_attention_heads": 26, "max_position_embeddings": 8192, "tie_word_embeddings": False,
        "attention_bias": True, "mlp_bias": True,
    },
    "nanochat": {
        "vocab_size": 50304, "hidden_size": 768, "intermediate_size": 8192, "num_hidden_layers": 12,
        "num_attention_heads": 6, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    },
}  # fmt: skip
BARE = BareNorm("rms bare")
HALF = 0.5  # of a head's channels are turned
STYLES = {"nemotron": "layer plus one"}


def build(config: Config) -> Model:
    """Return the decoder: RMSNorm for Arcee, LayerNorm for Nemotron and Jais, none with weights for nanochat."""
    hidden, kind = config.size("hidden_size"), config.model_type
    bias = config.bool("attention_bias")
    norm: Block = BARE if kind == "nanochat" else Norm(hidden, kind != "arcee", STYLES.get(kind, ""))
    names = ("fc1", "fc2") if kind == "nanochat" else ("up_proj", "down_proj")
    mlp_bias = kind != "nanochat" and config.bool("mlp_bias")
    activation = config.str("hidden_act", "relu2")
    attention = grouped_attention(config, hidden, qkv_bias=bias, out_bias=bias)
    if kind == "nemotron":
        attention = replace(attention, rotary=kind, rotary_dim=rotary_dim(config, attention.head_dim, HALF))
    if kind == "nanochat":
        attention = replace(attention, q_norm=BARE, k_norm=BARE, norm_place="rotated", rotary=kind)
    layer = Module(
        {
            "self_attn": attention,
            "mlp": MLP(hidden, config.int("intermediate_size"), mlp_bias, names, activation=activation),
            "input_layernorm": norm,
            "post_attention_layernorm": norm,
        }
    )
    model = causal_lm(config, (layer,) * config.depth("num_hidden_layers"), norm)
    capped = kind == "nanochat" and config.raw.get("final_logit_softcapping", 1) is not None
    return with_head(model, softcap=True) if capped else model
