"""Tencent Hunyuan-A13B: experts and a shared MLP of the same width in every layer, norms on queries and keys.

Class defaults and structure: transformers 5.23, models/hunyuan_v1_moe.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import Fp32Router, MoE, Router, shared_expert
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm
from oomph.families.moe_layers import by_kind, gqa, pre_norm_layer, stacked
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "hunyuan_v1_moe": {
        "vocab_size": 290943, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "num_experts": 1, "moe_topk": 1,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "hunyuan_v1_moe": {"num_experts": ("num_local_experts",), "moe_topk": ("num_experts_per_tok",)}
}


def build(config: Config) -> Model:
    """Return the decoder; moe_topk is one number, or one per layer."""
    hidden, layers, bias = config.size("hidden_size"), config.depth("num_hidden_layers"), config.bool("attention_bias")
    ffn, experts = config.int("intermediate_size"), config.int("num_experts", high=MAX_EXPERTS)
    attention = gqa(config, hidden, bias=bias, out_bias=bias, qk_norm=True)
    attention = replace(attention, norms=("query_layernorm", "key_layernorm"), norm_place="rotated")
    activation = config.str("hidden_act", "silu")

    def layer(top_k: int) -> Module:
        mixture = MoE(
            Router(hidden, experts, linear="wg"),
            GatedMLP(hidden, ffn, role="expert"),
            experts,
            top_k,
            extra={"shared_mlp": shared_expert(GatedMLP(hidden, ffn, activation=activation))},
            stacked=stacked(config, hidden, ffn, experts),
            style="hunyuan_v1_moe",
            built_router=Fp32Router(hidden, experts),
        )
        return pre_norm_layer(hidden, attention, mixture)

    return causal_lm(config, by_kind(tops(config, layers), layer), Norm(hidden))


def tops(config: Config, layers: int) -> list[int]:
    """Return how many experts a token uses in each layer."""
    if not isinstance(config.get("moe_topk"), list):
        return [config.int("moe_topk")] * layers
    found = config.ints("moe_topk", low=1) or []
    if len(found) != layers:
        raise config.error("moe_topk", f"has {len(found)} entries for {layers} layers")
    return found
