"""Phi 1 to 2 (attention and MLP side by side, biases everywhere, even on the head) and Phi 3 to 4 (Llama, maps fused).

Class defaults and structure: transformers 5.23, models/phi and models/phi3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Module
from oomph.blocks.basic import Dropout, Norm
from oomph.blocks.mlp import MLP, GatedMLP
from oomph.config import Config
from oomph.families.common import causal_lm, rope_type, rotary_dim
from oomph.families.llama import grouped_attention
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "phi": {
        "vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    },
    "phi3": {
        "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    },
}  # fmt: skip
PARTIAL_ROTARY = 0.5  # PhiConfig's partial_rotary_factor
LONGROPE = ("longrope", "su", "yarn")  # what Phi-3's class takes to be LongRoPE


def build(config: Config) -> Model:
    """Return the decoder of either generation."""
    return phi3(config) if config.model_type == "phi3" else phi(config)


def phi(config: Config) -> Model:
    """Return Phi 1, 1.5 or 2: one norm a layer."""
    hidden = config.size("hidden_size")
    attention = grouped_attention(config, hidden, qkv_bias=True, out_bias=True, out="dense")
    attention = replace(attention, rotary_dim=rotary_dim(config, attention.head_dim, PARTIAL_ROTARY))
    dropout = Dropout(config.rate("resid_pdrop", 0.0))
    if config.bool("qk_layernorm"):
        norm = Norm(config.divide(hidden, attention.num_heads, "attention heads"), bias=True)
        attention = replace(attention, q_norm=norm, k_norm=norm, norms=("q_layernorm", "k_layernorm"))
    layer = Module(
        {
            "self_attn": attention,
            "mlp": MLP(
                hidden, config.int("intermediate_size"), bias=True, names=("fc1", "fc2"),
                activation=config.str("hidden_act", "gelu_new"),
            ),
            "input_layernorm": Norm(hidden, bias=True),
            "resid_dropout": dropout,
        }
    )  # fmt: skip
    layers = (layer,) * config.depth("num_hidden_layers")
    extra = {"model.embed_dropout": Dropout(config.rate("embd_pdrop", 0.0))}
    return causal_lm(config, layers, Norm(hidden, bias=True), norm="model.final_layernorm", head_bias=True, extra=extra)


def phi3(config: Config) -> Model:
    """Return Phi 3, 3.5, 4 or 4-mini."""
    hidden = config.size("hidden_size")
    attention = grouped_attention(config, hidden, qkv=("qkv_proj",), out_first=True, rotary="phi3")
    attention = replace(
        attention,
        rotary_dim=rotary_dim(config, attention.head_dim, 1.0),
        sliding_window=config.optional_int("sliding_window"),
        longrope=rope_type(config) in LONGROPE,
    )
    dropout = Dropout(config.rate("resid_pdrop", 0.0))
    layer = Module(
        {
            "self_attn": attention,
            "mlp": GatedMLP(
                hidden,
                config.int("intermediate_size"),
                names=("gate_up_proj", "down_proj"),
                activation=config.str("hidden_act", "silu"),
            ),
            "input_layernorm": Norm(hidden),
            "post_attention_layernorm": Norm(hidden),
            "resid_attn_dropout": dropout,
            "resid_mlp_dropout": dropout,
        }
    )
    return causal_lm(config, (layer,) * config.depth("num_hidden_layers"), Norm(hidden))
