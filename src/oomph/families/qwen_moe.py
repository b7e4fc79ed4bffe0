"""Qwen's mixtures of experts (Qwen1.5/2-MoE, Qwen3-MoE) and Mellum: dense layers between sparse ones by rule.

Class defaults and structure: transformers 5.23, models/qwen2_moe, models/qwen3_moe and models/mellum.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module, Part
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router, shared_expert
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm
from oomph.families.layer_types import FULL, SLIDING, listed, windows
from oomph.families.moe_layers import by_kind, gqa, mlp_kinds, pre_norm_layer, stacked
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "qwen2_moe": {
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 32768,
        "tie_word_embeddings": False, "decoder_sparse_step": 1, "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632, "num_experts_per_tok": 4, "num_experts": 60, "qkv_bias": True,
    },
    "qwen3_moe": {
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
        "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 32768,
        "tie_word_embeddings": False, "decoder_sparse_step": 1, "moe_intermediate_size": 768,
        "num_experts_per_tok": 8, "num_experts": 128,
    },
    "mellum": {
        "vocab_size": 98304, "hidden_size": 2304, "intermediate_size": 7168, "num_hidden_layers": 28,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "moe_intermediate_size": 896, "num_experts_per_tok": 8, "num_experts": 64,
        "sliding_window": 1024, "norm_topk_prob": True,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    name: {"num_experts": ("num_local_experts",)} for name in ("qwen3_moe", "mellum")
}


def build(config: Config) -> Model:
    """Return the decoder: Qwen2 with biases on q, k and v, the others with a norm on each head's queries and keys."""
    hidden, layers = config.size("hidden_size"), config.depth("num_hidden_layers")
    if config.model_type == "qwen2_moe":
        attention = gqa(config, hidden, bias=config.bool("qkv_bias"))
    else:
        bias = config.bool("attention_bias")
        attention = gqa(config, hidden, bias=bias, out_bias=bias, qk_norm=True)
        attention = replace(attention, own_tables=config.model_type == "mellum")

    places = sliding_windows(config, layers)

    def layer(kind: tuple[str, int | None]) -> Module:
        mlp_kind, window = kind
        dense = GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu"))
        return pre_norm_layer(
            hidden,
            replace(attention, sliding_window=window),
            mixture(config, hidden) if mlp_kind == "sparse" else dense,
        )

    kinds = list(zip(sparse_steps(config, layers), places, strict=True))
    model = causal_lm(config, by_kind(kinds, layer), Norm(hidden))
    if config.model_type == "qwen2_moe" and config.bool("use_sliding_window") and not any(places):
        return replace(model, unplayed=(*model.unplayed, "a window that no layer has"))  # whose mask is made anyway
    return model


def sliding_windows(config: Config, layers: int) -> list[int | None]:
    """Return the window of every layer, None where attention is full: all alike in Qwen3, by layer_types in Qwen2."""
    if config.model_type == "mellum":
        return windows(config, listed(config, layers, allowed=(SLIDING, FULL)) or [FULL] * layers)[0]
    if not config.bool("use_sliding_window"):
        return [None] * layers
    window = config.optional_int("sliding_window")
    if config.model_type == "qwen3_moe":
        return [window] * layers
    kinds = listed(config, layers, allowed=(SLIDING, FULL))
    if kinds is None:
        last = config.int("max_window_layers", 0)
        kinds = [FULL if index % 2 or index >= last else SLIDING for index in range(layers)]
    return [window if kind == SLIDING else None for kind in kinds]


def sparse_steps(config: Config, layers: int) -> list[str]:
    """Return "sparse" for every decoder_sparse_step-th layer that mlp_only_layers does not name."""
    if config.model_type == "mellum":
        return mlp_kinds(config, layers, 0)
    step, dense = config.int("decoder_sparse_step"), set(config.ints("mlp_only_layers") or [])
    if not config.int("num_experts", low=0, high=MAX_EXPERTS):
        return ["dense"] * layers
    return ["dense" if i in dense or (i + 1) % step else "sparse" for i in range(layers)]


def mixture(config: Config, hidden: int) -> Block:
    """Return the experts; Qwen2 adds one that all tokens share, behind a sigmoid gate."""
    experts = config.int("num_experts", high=MAX_EXPERTS)
    beside: dict[str, Part] = {}
    if config.model_type == "qwen2_moe":
        act = config.str("hidden_act", "silu")
        shared = GatedMLP(hidden, config.int("shared_expert_intermediate_size"), activation=act)
        beside["shared_expert"] = shared_expert(shared)
        beside["shared_expert_gate"] = shared_expert(Linear(hidden, 1))
    expert = GatedMLP(hidden, config.int("moe_intermediate_size"), role="expert")
    return MoE(
        Router(hidden, experts),
        expert,
        experts,
        config.int("num_experts_per_tok"),
        extra=beside,
        stacked=stacked(config, hidden, config.int("moe_intermediate_size"), experts),
        experts_first=config.model_type != "qwen2_moe",
        style="qwen3_moe" if config.model_type == "mellum" else config.model_type,
        normalised=config.bool("norm_topk_prob"),
    )
