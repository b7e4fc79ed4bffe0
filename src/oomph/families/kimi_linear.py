"""Kimi-Linear: Kimi delta attention with latent attention in every fourth layer, experts after the first layer.

Class defaults and structure: transformers 5.23, models/kimi_linear; names as the checkpoints spell them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module, Part
from oomph.blocks.basic import Norm
from oomph.blocks.latent_attention import UnturnedLatentAttention
from oomph.blocks.linear_attention import KimiDeltaAttention
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router, StackedExperts, shared_expert
from oomph.config import MAX_DEPTH, MAX_EXPERTS, Config
from oomph.families.common import causal_lm
from oomph.families.layer_types import FULL, LINEAR, listed
from oomph.families.moe_layers import by_kind, mlp_kinds
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "kimi_linear": {
        "vocab_size": 163840, "hidden_size": 2304, "intermediate_size": 9216, "moe_intermediate_size": 1024,
        "num_hidden_layers": 27, "num_attention_heads": 32, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "qk_nope_head_dim": 128, "max_position_embeddings": 1048576, "attention_bias": False,
        "num_local_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1, "linear_head_dim": 128,
        "linear_num_heads": 32, "linear_conv_kernel_dim": 4,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "kimi_linear": {
        "max_position_embeddings": ("model_max_length",), "num_local_experts": ("num_experts",),
        "num_experts_per_tok": ("num_experts_per_token",), "n_group": ("num_expert_group",),
        "norm_topk_prob": ("moe_renormalize",), "n_shared_experts": ("num_shared_experts",),
    },
}  # fmt: skip

NESTED = "linear_attn_config"  # where the checkpoints' configs keep the delta attention's sizes and places
NESTED_KEYS = {
    "linear_head_dim": "head_dim",
    "linear_num_heads": "num_heads",
    "linear_conv_kernel_dim": "short_conv_kernel_size",
}
FULL_INTERVAL = 4  # without any list of layers, those whose index is a multiple of this (but not the first)
FIRST_DENSE = 1  # first_k_dense_replace when absent

EXPERT_NAMES = ("w1", "w3", "w2")  # gate, up, down


def build(config: Config) -> Model:
    """Return the decoder: two kinds of attention times two kinds of feed-forward. The class never ties the head."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    dense = config.optional_int("first_k_dense_replace", low=0, high=MAX_DEPTH)
    mlps = mlp_kinds(config, depth, FIRST_DENSE if dense is None else dense)

    def layer(kind: tuple[str, str]) -> Block:
        attends, feeds = kind
        mlp: dict[str, Part] = {
            "mlp": GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu"))
        }
        return Module(
            {
                "self_attn": latent_attention(config, hidden) if attends == FULL else delta_attention(config, hidden),
                **({"block_sparse_moe": mixture(config, hidden)} if feeds == "sparse" else mlp),
                "input_layernorm": Norm(hidden),
                "post_attention_layernorm": Norm(hidden),
            }
        )

    layers = by_kind(list(zip(attention_kinds(config, depth), mlps, strict=True)), layer)
    return causal_lm(config, layers, Norm(hidden), tied=False)


def attention_kinds(config: Config, layers: int) -> Sequence[str]:
    """Return the kind of attention of every layer: layer_types, else the nested lists (counted from 1)."""
    found = listed(config, layers)
    nested = config.sub(NESTED)
    if found is not None:
        return found
    if not (nested.has("full_attn_layers") and nested.has("kda_layers")):
        return [FULL if index and index % FULL_INTERVAL == 0 else LINEAR for index in range(layers)]
    full = nested.ints("full_attn_layers", low=1, high=layers) or []
    linear = nested.ints("kda_layers", low=1, high=layers) or []
    if sorted(full + linear) != list(range(1, layers + 1)):
        raise nested.error("full_attn_layers", f"and kda_layers together do not name each of {layers} layers once")
    at = set(full)
    return [FULL if index + 1 in at else LINEAR for index in range(layers)]


def delta_attention(config: Config, hidden: int) -> Block:
    """Return Kimi delta attention; the nested config's sizes win over the top level's."""
    nested = config.sub(NESTED)
    heads, head_dim, kernel = (
        nested.int(NESTED_KEYS[key]) if nested.has(NESTED_KEYS[key]) else config.int(key)
        for key in ("linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim")
    )
    return KimiDeltaAttention(hidden, heads, head_dim, kernel)


def latent_attention(config: Config, hidden: int) -> Block:
    """Return DeepSeek's latent attention, here without rotary positions."""
    return UnturnedLatentAttention(
        hidden,
        config.int("num_attention_heads"),
        config.optional_int("q_lora_rank"),
        config.int("kv_lora_rank"),
        config.int("qk_nope_head_dim"),
        config.int("qk_rope_head_dim"),
        config.int("v_head_dim"),
        bias=config.bool("attention_bias"),
        dropout=config.rate("attention_dropout", 0.0),
    )


def mixture(config: Config, hidden: int) -> Block:
    """Return the experts, the router with its correction buffer, and the shared experts fused into one MLP."""
    ffn, number = config.int("moe_intermediate_size"), config.int("num_local_experts", high=MAX_EXPERTS)
    router = Router(hidden, number, correction="e_score_correction_bias")
    act = config.str("hidden_act", "silu")
    shared = GatedMLP(hidden, ffn * config.int("n_shared_experts", high=MAX_EXPERTS), activation=act)
    return MoE(
        router,
        GatedMLP(hidden, ffn, names=EXPERT_NAMES, role="expert"),
        number,
        config.int("num_experts_per_tok"),
        extra={"shared_experts": shared_expert(shared)},
        stacked=StackedExperts(hidden, ffn, number, activation=act),
        experts_first=True,
        style="deepseek_v3",
        normalised=config.bool("norm_topk_prob", default=True),
        groups=(config.optional_int("n_group") or 1, config.optional_int("topk_group") or 1),
        built_router=replace(router, correction_like_weights=True),
    )
