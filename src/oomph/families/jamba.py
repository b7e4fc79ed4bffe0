"""Jamba: Mamba-1 with attention in every eighth layer, experts in every second.

Class defaults and structure: transformers 5.23, models/jamba.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Norm
from oomph.blocks.mamba import Mamba
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router
from oomph.config import MAX_EXPERTS, Config
from oomph.families.bamba import WITHOUT_ATTENTION
from oomph.families.common import causal_lm, head_dim
from oomph.families.mamba import time_step_rank
from oomph.families.moe_layers import by_kind, stacked
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "jamba": {
        "vocab_size": 65536, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 262144,
        "tie_word_embeddings": False, "num_experts": 16, "num_experts_per_tok": 2, "expert_layer_period": 2,
        "expert_layer_offset": 1, "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16,
        "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": "auto", "mamba_conv_bias": True,
        "mamba_proj_bias": False,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {"jamba": {"num_experts": ("num_local_experts",)}}


def build(config: Config) -> Model:
    """Return the decoder: two kinds of mixer times two kinds of feed-forward, at most four kinds of layer."""
    hidden, layers = config.size("hidden_size"), config.depth("num_hidden_layers")
    attends = every(config, "attn_layer_period", "attn_layer_offset", layers)
    routes = every(config, "expert_layer_period", "expert_layer_offset", layers)
    if config.int("num_experts", high=MAX_EXPERTS) == 1:
        routes = [False] * layers
    mixers = {True: ("self_attn", attention(config, hidden)), False: ("mamba", mamba(config, hidden))}

    def layer(kind: tuple[bool, bool]) -> Block:
        name, mixer = mixers[kind[0]]
        norms = {"input_layernorm": Norm(hidden), "pre_ff_layernorm": Norm(hidden)}
        return Module({name: mixer, "feed_forward": feed_forward(config, hidden, kind[1]), **norms})

    stack = by_kind(list(zip(attends, routes, strict=True)), layer)
    unplayed = () if any(attends) else (WITHOUT_ATTENTION,)
    return causal_lm(config, stack, Norm(hidden), norm="model.final_layernorm", unplayed=unplayed)


def every(config: Config, period_key: str, offset_key: str, layers: int) -> list[bool]:
    """Return for each layer whether its index modulo the period is the offset."""
    period, offset = config.int(period_key), config.int(offset_key, low=0)
    if offset >= period:
        raise config.error(offset_key, f"is {offset}, but must be below {period_key}, {period}")
    return [index % period == offset for index in range(layers)]


def attention(config: Config, hidden: int) -> Block:
    """Return grouped-query attention without biases (and without rotary positions)."""
    heads = config.int("num_attention_heads")
    kv_heads = config.optional_int("num_key_value_heads") or heads
    dropout = config.rate("attention_dropout", 0.0)
    return Attention(hidden, heads, kv_heads, head_dim(config, hidden, heads), dropout=dropout, rotary="")


def mamba(config: Config, hidden: int) -> Block:
    """Return Mamba-1 with norms on dt, B and C."""
    return Mamba(
        hidden,
        hidden * config.int("mamba_expand"),
        config.int("mamba_d_state"),
        config.int("mamba_d_conv"),
        time_step_rank(config, "mamba_dt_rank", hidden),
        bias=config.bool("mamba_proj_bias"),
        conv_bias=config.bool("mamba_conv_bias"),
        inner_norms="weighted",
        activation=config.str("hidden_act", "silu"),
    )


def feed_forward(config: Config, hidden: int, routed: bool) -> Block:
    """Return the gated MLP or, routed, the same as one of many experts."""
    ffn = config.int("intermediate_size")
    if not routed:
        return GatedMLP(hidden, ffn, activation=config.str("hidden_act", "silu"))
    experts = config.int("num_experts", high=MAX_EXPERTS)
    expert = GatedMLP(hidden, ffn, role="expert")
    router = Router(hidden, experts)
    return MoE(
        router,
        expert,
        experts,
        config.int("num_experts_per_tok"),
        router_name="router",
        stacked=stacked(config, hidden, ffn, experts),
        style="jamba",
    )
