"""MiniMax-Text-01 and M1: lightning attention with softmax attention in some layers, experts in all.

Class defaults and structure: transformers 5.23, models/minimax, which is the same model as the original code's
`minimax_text_01` and `minimax_m1`; names as the checkpoints spell them.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Norm
from oomph.blocks.linear_attention import LightningAttention
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router
from oomph.config import MAX_EXPERTS, Config
from oomph.errors import ConfigError, UnsupportedError
from oomph.families.common import causal_lm, head_dim
from oomph.families.layer_types import FULL, LINEAR, full_every, listed
from oomph.families.moe_layers import by_kind, stacked
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "minimax": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "num_local_experts": 8, "num_experts_per_tok": 2, "block_size": 256,
    },
    # The original repositories' own classes; what they take for an absent size is not relied on.
    "minimax_m1": {"tie_word_embeddings": False},
    "minimax_text_01": {"tie_word_embeddings": False},
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {"minimax": {"num_local_experts": ("num_experts",)}}

EXPERT_NAMES = ("w1", "w3", "w2")  # gate, up, down


def build(config: Config) -> Model:
    """Return the decoder: two kinds of attention, the same experts everywhere."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    heads = config.int("num_attention_heads")
    size = head_dim(config, hidden, heads)
    kv_heads = config.optional_int("num_key_value_heads") or heads
    number = config.int("num_local_experts", high=MAX_EXPERTS)
    expert = GatedMLP(hidden, config.int("intermediate_size"), names=EXPERT_NAMES, role="expert")
    mixture = MoE(
        Router(hidden, number), expert, number, config.int("num_experts_per_tok"), style="mixtral", normalised=True,
        stacked=stacked(config, hidden, config.int("intermediate_size"), number),
    )  # fmt: skip
    rate, window = config.rate("attention_dropout", 0.0), config.optional_int("sliding_window")
    attention = Attention(hidden, heads, kv_heads, size, dropout=rate, sliding_window=window)
    activation = config.str("hidden_act", "silu")
    # Only the transformers class stores the decays; the published M1 total has none.
    block = config.int("block_size") if config.model_type == "minimax" else None

    def layer(kind: str) -> Block:
        softmax = kind == FULL
        return Module(
            {
                "self_attn": attention if softmax else LightningAttention(hidden, heads, size, block, activation),
                "input_layernorm": Norm(hidden),
                "post_attention_layernorm": Norm(hidden),
                "block_sparse_moe": mixture,
            }
        )

    return causal_lm(config, by_kind(attention_kinds(config, depth), layer), Norm(hidden))


def attention_kinds(config: Config, layers: int) -> list[str]:
    """Return the kind of attention of every layer; the class alternates, beginning with softmax attention.

    The original configs list 0 for lightning and 1 for softmax attention, and might have a shared expert.
    """
    if config.model_type == "minimax":
        return listed(config, layers) or full_every(layers + 1, 2)[1:]
    if config.optional_int("shared_intermediate_size", low=0):
        raise UnsupportedError(
            "No published MiniMax model has a shared expert, so its tensors are not known.",
            "Weigh the model from its files instead.",
        )
    kinds = config.layer_list("attn_type_list", layers)
    if kinds is None:
        raise ConfigError("attn_type_list is missing.", f"Add attn_type_list to {config.where}.")
    if any(kind not in (0, 1) for kind in kinds):
        raise config.error("attn_type_list", "holds something other than 0 (lightning) and 1 (softmax attention)")
    return [FULL if kind else LINEAR for kind in kinds]
