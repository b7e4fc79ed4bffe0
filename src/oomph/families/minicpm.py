"""MiniCPM 1, 2 and 4: Llama with scaled residuals; MiniCPM-MoE has E gated experts in every layer.

Structure: the code of their repositories, modeling_minicpm.py; defaults of configuration_minicpm.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router
from oomph.blocks.tabled_attention import with_tables
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm
from oomph.families.llama import grouped_attention
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {"minicpm": {"max_position_embeddings": 2048, "tie_word_embeddings": True}}
STYLE = "rms cast first"


def build(config: Config) -> Model:
    """Return the decoder; num_experts absent, null or 0 is the dense model."""
    hidden, bias = config.size("hidden_size"), config.bool("attention_bias")
    attention = grouped_attention(config, hidden, qkv_bias=bias, out_bias=bias)
    layer = Module(
        {
            "self_attn": with_tables(attention, config.int("max_position_embeddings")),
            "mlp": feed_forward(config, hidden),
            "input_layernorm": Norm(hidden, style=STYLE),
            "post_attention_layernorm": Norm(hidden, style=STYLE),
        }
    )
    layers = (layer,) * config.depth("num_hidden_layers")
    return causal_lm(config, layers, Norm(hidden, style=STYLE), unplayed=tuple(unplayed(config)))


def unplayed(config: Config) -> Iterator[str]:
    """Yield what the tape has no rule for."""
    if config.optional_int("num_experts", 0, MAX_EXPERTS):
        yield "the experts of MiniCPM-MoE"
    if (config.optional_int("pretraining_tp") or 1) > 1:
        yield "pretraining_tp"


def feed_forward(config: Config, hidden: int) -> Block:
    """Return the gated MLP, or the router and its experts."""
    ffn, experts = config.int("intermediate_size"), config.optional_int("num_experts", 0, MAX_EXPERTS)
    if not experts:
        return GatedMLP(hidden, ffn, activation=config.str("hidden_act", "silu"))
    expert = GatedMLP(hidden, ffn, names=("w1", "w3", "w2"), role="expert")
    return MoE(Router(hidden, experts), expert, experts, config.int("num_experts_per_tok"))
