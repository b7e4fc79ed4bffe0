"""Zamba: Mamba-1 layers, and one transformer block, stored once, that works beside some of them.

The shared block reads the hidden state and the embedding side by side (2·H) and writes H; each layer that uses
it adds a map of its own. Class defaults and structure: transformers 5.23, models/zamba.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.mamba import MultiHeadMamba
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.shared import Reused
from oomph.config import Config
from oomph.families.common import causal_lm
from oomph.families.layer_types import HYBRID, LINEAR, checked, listed
from oomph.families.mamba import time_step_rank
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "zamba": {
        "vocab_size": 32000, "hidden_size": 3712, "intermediate_size": 14848, "num_hidden_layers": 76,
        "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 4096,
        "tie_word_embeddings": True, "n_mamba_heads": 2, "attn_layer_period": 6, "attn_layer_offset": 4,
        "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": "auto",
        "mamba_conv_bias": True, "mamba_proj_bias": False,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "zamba": {"layers_block_type": ("layer_types",), "attention_head_dim": ("head_dim",)}
}

FIRST_LAYERS = [LINEAR, LINEAR, HYBRID]  # the period starts after these


def build(config: Config) -> Model:
    """Return the decoder; the shared block's weights stand in the first layer that uses it."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    kinds = listed(config, depth, "layers_block_type", (LINEAR, HYBRID)) or default_kinds(config, depth)
    mamba = Module({"mamba": mixer(config, hidden), "input_layernorm": Norm(hidden)})
    block = shared_block(config, hidden)
    again = Reused(block) if config.bool("tie_word_embeddings") else block  # untied, the class shares nothing
    first, later = (
        Module({"shared_transf": part, "linear": Linear(hidden, hidden), "mamba_decoder": mamba})
        for part in (block, again)
    )
    layers: list[Block] = [later if kind == HYBRID else mamba for kind in kinds]
    if HYBRID in kinds:
        layers[kinds.index(HYBRID)] = first
    return causal_lm(config, layers, Norm(hidden), norm="model.final_layernorm")


def default_kinds(config: Config, layers: int) -> list[str]:
    """Return the layers' kinds by period and offset, counted from the fourth layer."""
    period, offset = config.int("attn_layer_period"), config.int("attn_layer_offset", low=0)
    rest = [HYBRID if index % period == offset else LINEAR for index in range(layers - len(FIRST_LAYERS))]
    kinds = FIRST_LAYERS + rest
    if len(kinds) != layers:
        raise config.error("num_hidden_layers", f"is {layers}, fewer than the {len(FIRST_LAYERS)} first layers")
    return checked(config, "layers_block_type", list(kinds), (LINEAR, HYBRID))


def shared_block(config: Config, hidden: int) -> Block:
    """Return the transformer block that all hybrid layers share."""
    width, heads = config.optional_int("attention_hidden_size") or 2 * hidden, config.int("num_attention_heads")
    head_dim = config.optional_int("attention_head_dim") or config.divide(2 * hidden, heads, "attention heads")
    kv_heads = config.optional_int("num_key_value_heads") or heads
    return Module(
        {
            "self_attn": Attention(
                width,
                heads,
                kv_heads,
                head_dim,
                out_features=hidden,
                rotary="",
                dropout=config.rate("attention_dropout", 0.0),
            ),
            "feed_forward": GatedMLP(
                hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "gelu")
            ),
            "input_layernorm": Norm(width),
            "pre_ff_layernorm": Norm(hidden),
        }
    )


def mixer(config: Config, hidden: int) -> Block:
    """Return the Mamba-1 mixer of several heads."""
    inner, heads = hidden * config.int("mamba_expand"), config.int("n_mamba_heads")
    config.divide(inner, heads, "Mamba heads")
    return MultiHeadMamba(
        hidden,
        inner,
        config.int("mamba_d_state"),
        config.int("mamba_d_conv"),
        time_step_rank(config, "mamba_dt_rank", hidden),
        heads,
        bias=config.bool("mamba_proj_bias"),
        conv_bias=config.bool("mamba_conv_bias"),
        activation=config.str("hidden_mamba_act", "silu"),
    )
