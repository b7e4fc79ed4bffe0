"""Poolside's Laguna: attention with a gate and a number of heads of each layer's own, experts after a dense layer.

Class defaults and structure: transformers 5.23, models/laguna.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import CappedRouter, MoE, Router, shared_expert
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm, head_dim, turned_of_kind
from oomph.families.layer_types import FULL, SLIDING, listed, windows
from oomph.families.moe_layers import by_kind, mlp_kinds, pre_norm_layer, stacked
from oomph.families.step3p5 import gated_heads
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "laguna": {
        "vocab_size": 100352, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 40,
        "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "sliding_window": 512, "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512, "num_experts_per_tok": 8, "num_experts": 256,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {}

Kind = tuple[int | None, str, int]  # the window of attention, MLP, heads
_TURNED = {FULL: 0.5, SLIDING: 1.0}  # which part of a head's channels, by default


def build(config: Config) -> Model:
    """Return the decoder: of each layer the kind of attention, of MLP, and the number of heads."""
    hidden, layers = config.size("hidden_size"), config.depth("num_hidden_layers")
    places, unplayed = windows(config, listed(config, layers, allowed=(SLIDING, FULL)) or [FULL] * layers)
    kinds = list(zip(places, mlp_kinds(config, layers, 1), heads(config, layers), strict=True))
    layers_ = by_kind(kinds, lambda kind: layer(config, hidden, kind))
    return causal_lm(config, layers_, Norm(hidden), unplayed=unplayed)


def heads(config: Config, layers: int) -> list[int]:
    """Return the query heads of every layer."""
    found = config.layer_list("num_attention_heads_per_layer", layers)
    return [config.int("num_attention_heads")] * layers if found is None else [_count(config, each) for each in found]


def _count(config: Config, value: object) -> int:
    kv_heads = config.int("num_key_value_heads")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value % kv_heads:
        raise config.error("num_attention_heads_per_layer", f"holds {str(value)[:40]!r}, no multiple of {kv_heads}")
    return value


def layer(config: Config, hidden: int, kind: Kind) -> Module:
    """Return one layer."""
    window, mlp, count = kind
    dim = head_dim(config, hidden, config.int("num_attention_heads"))
    dense = GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu"))
    kind_of = FULL if window is None else SLIDING
    attends = replace(
        gated_heads(config, hidden, count, dim),
        sliding_window=window,
        dropout=config.rate("attention_dropout", 0.0),
        rotary="partial",
        rotary_dim=turned_of_kind(config, dim, kind_of, _TURNED[kind_of]),
        own_tables=True,
        gate_style="laguna",
    )
    return pre_norm_layer(hidden, attends, dense if mlp == "dense" else experts(config, hidden))


def experts(config: Config, hidden: int) -> MoE:
    """Return the mixture; what corrects its router is a parameter that does not train, stored with the experts."""
    act = config.str("hidden_act", "silu")
    count, ffn = config.int("num_experts", high=MAX_EXPERTS), config.int("moe_intermediate_size")
    shared = GatedMLP(hidden, config.int("shared_expert_intermediate_size"), activation=act)
    capped = config.get("moe_router_logit_softcapping") is not None and config.float("moe_router_logit_softcapping") > 0
    return MoE(
        Router(hidden, count),
        GatedMLP(hidden, ffn, role="expert"),
        count,
        config.int("num_experts_per_tok"),
        extra={
            "shared_experts": shared_expert(shared),
            "e_score_correction_bias": Tensor((count,), "param", "fp32", trains=False),
        },
        stacked=stacked(config, hidden, ffn, count),
        experts_first=True,
        style="laguna",
        built_router=CappedRouter(hidden, count, capped=capped),
        beside_router=("e_score_correction_bias",),
    )
