"""GLM-4 dense: biases on q, k, v, gate and up fused; GLM-4-0414 (`glm4`) adds a norm after attention and MLP.

Class defaults and structure: transformers 5.23, models/glm and models/glm4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.families.common import causal_lm, rotary_dim
from oomph.families.llama import grouped_attention
from oomph.model import Model

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
    "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
    "tie_word_embeddings": False, "attention_bias": True,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {"glm": _DEFAULTS, "glm4": _DEFAULTS}
HALF = 0.5  # of a head's channels are turned
NORMS: dict[str, tuple[str, ...]] = {
    "glm": ("input_layernorm", "post_attention_layernorm"),
    "glm4": ("input_layernorm", "post_attention_layernorm", "post_self_attn_layernorm", "post_mlp_layernorm"),
}


def build(config: Config) -> Model:
    """Return the decoder, every layer the same."""
    hidden = config.size("hidden_size")
    attention = grouped_attention(config, hidden, qkv_bias=config.bool("attention_bias"), rotary="glm")
    mlp = GatedMLP(
        hidden,
        config.int("intermediate_size"),
        names=("gate_up_proj", "down_proj"),
        activation=config.str("hidden_act", "silu"),
    )
    layer = Module(
        {
            "self_attn": replace(attention, rotary_dim=rotary_dim(config, attention.head_dim, HALF)),
            "mlp": mlp,
            **{name: Norm(hidden) for name in NORMS[config.model_type]},
        }
    )
    return causal_lm(config, (layer,) * config.depth("num_hidden_layers"), Norm(hidden))
