"""Poolside's Laguna: attention with a gate and a number of heads of each layer's own, experts after a dense layer.

Class defaults and structure: transformers 5.23, models/laguna.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.base import Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router, shared_expert
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm, head_dim
from oomph.families.layer_types import FULL, SLIDING, listed
from oomph.families.moe_layers import by_kind, mlp_kinds, pre_norm_layer
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

Kind = tuple[str, str, int]  # attention, MLP, heads


def build(config: Config) -> Model:
    """Return the decoder: of each layer the kind of attention, of MLP, and the number of heads."""
    hidden, layers = config.size("hidden_size"), config.depth("num_hidden_layers")
    attention = listed(config, layers, allowed=(SLIDING, FULL)) or [FULL] * layers
    kinds = list(zip(attention, mlp_kinds(config, layers, 1), heads(config, layers), strict=True))
    return causal_lm(config, by_kind(kinds, lambda kind: layer(config, hidden, kind)), Norm(hidden))


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
    attention, mlp, count = kind
    dim = head_dim(config, hidden, config.int("num_attention_heads"))
    dense = GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu"))
    attends = gated_heads(config, hidden, count, dim, attention == SLIDING)
    return pre_norm_layer(hidden, attends, dense if mlp == "dense" else experts(config, hidden))


def experts(config: Config, hidden: int) -> MoE:
    """Return the mixture; what corrects its router is a parameter that does not train, stored with the experts."""
    count, ffn = config.int("num_experts", high=MAX_EXPERTS), config.int("moe_intermediate_size")
    shared = GatedMLP(hidden, config.int("shared_expert_intermediate_size"))
    return MoE(
        Router(hidden, count),
        GatedMLP(hidden, ffn, role="expert"),
        count,
        config.int("num_experts_per_tok"),
        extra={
            "shared_experts": shared_expert(shared),
            "e_score_correction_bias": Tensor((count,), "param", "fp32", trains=False),
        },
    )
