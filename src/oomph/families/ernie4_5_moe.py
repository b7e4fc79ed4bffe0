"""Baidu ERNIE-4.5 mixtures: experts between two layer numbers, the router's correction bias a frozen parameter.

Class defaults and structure: transformers 5.23, models/ernie4_5_moe; prediction layer as the published
ERNIE-4.5-21B-A3B stores it: a dense layer behind two norms.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module, Part, Stack
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import CorrectedRouter, MoE, Router, shared_expert
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm
from oomph.families.moe_layers import by_kind, gqa, pre_norm_layer, stacked
from oomph.families.mtp import predictors, with_mtp
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "ernie4_5_moe": {
        "vocab_size": 103424, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 28,
        "num_attention_heads": 20, "num_key_value_heads": 4, "max_position_embeddings": 131072,
        "tie_word_embeddings": True, "moe_intermediate_size": 1536, "moe_k": 6, "moe_num_experts": 64,
        "moe_num_shared_experts": 2, "moe_layer_start_index": 1, "moe_layer_end_index": -1,
        "moe_layer_interval": 1,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "ernie4_5_moe": {"moe_num_experts": ("num_experts",), "moe_k": ("num_experts_per_tok",)}
}


def build(config: Config) -> Model:
    """Return the decoder; use_bias is one switch for attention, MLPs and head."""
    hidden, bias = config.size("hidden_size"), config.bool("use_bias")
    attention = replace(gqa(config, hidden, bias=bias, out_bias=bias), dropout=0.0, rotary="ernie4_5")
    act = config.str("hidden_act", "silu")
    dense = GatedMLP(hidden, config.int("intermediate_size"), bias, activation=act)

    def layer(kind: str) -> Module:
        return pre_norm_layer(hidden, attention, mixture(config, hidden, bias) if kind == "sparse" else dense)

    kinds = sparse_range(config, config.depth("num_hidden_layers"))
    model = causal_lm(config, by_kind(kinds, layer), Norm(hidden), head_bias=bias)
    return with_mtp(model, next_token_parts(hidden, predictors(config), layer("dense"), bias))


def sparse_range(config: Config, layers: int) -> list[str]:
    """Return "sparse" for every moe_layer_interval-th layer from the start to the end index, -1 being the last."""
    every, start = config.int("moe_layer_interval"), config.int("moe_layer_start_index", low=0)
    end = config.int("moe_layer_end_index", low=-1)
    end = layers - 1 if end == -1 else end
    return ["sparse" if start <= i <= end and not (i + 1) % every else "dense" for i in range(layers)]


def mixture(config: Config, hidden: int, bias: bool) -> Block:
    """Return the experts and, if any, the shared ones fused into one MLP."""
    experts, ffn = config.int("moe_num_experts", high=MAX_EXPERTS), config.int("moe_intermediate_size")
    always = config.int("moe_num_shared_experts", low=0)
    act = config.str("hidden_act", "silu")
    statics = Module({"e_score_correction_bias": Tensor((1, experts), "param")}, kind="moe_router")
    return MoE(
        Router(hidden, experts),
        GatedMLP(hidden, ffn, role="expert"),
        experts,
        config.int("moe_k"),
        extra={
            "moe_statics": statics,
            "shared_experts": shared_expert(GatedMLP(hidden, ffn * always, bias, activation=act)) if always else None,
        },
        stacked=stacked(config, hidden, ffn, experts),
        style="ernie4_5_moe",
        built_router=CorrectedRouter(hidden, experts),
        beside_router=("moe_statics",),
    )


def next_token_parts(hidden: int, times: int, layer: Module, bias: bool) -> dict[str, Part]:
    """Return the prediction layers: four lists side by side, one entry per layer."""
    if not times:
        return {}
    each = {
        "mtp_block": layer,
        "mtp_emb_norm": Norm(hidden),
        "mtp_hidden_norm": Norm(hidden),
        "mtp_linear_proj": Linear(2 * hidden, hidden, bias),
    }
    return {f"model.{name}": Stack((part,) * times, kind="mtp") for name, part in each.items()}
