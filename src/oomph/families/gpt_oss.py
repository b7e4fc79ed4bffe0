"""gpt-oss: biases everywhere but in the head, attention sinks, experts with fused gate and up.

Class defaults and structure: transformers 5.23, models/gpt_oss.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router, StackedExperts
from oomph.blocks.sink_attention import SinkAttention
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm
from oomph.families.layer_types import FULL, SLIDING, listed
from oomph.families.moe_layers import by_kind, gqa, pre_norm_layer
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "gpt_oss": {
        "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "attention_bias": True, "num_local_experts": 128, "num_experts_per_tok": 4,
        "sliding_window": 128,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {"gpt_oss": {"num_local_experts": ("num_experts",)}}


def build(config: Config) -> Model:
    """Return the decoder: sliding and full attention in turn, which store the same tensors."""
    hidden, bias = config.size("hidden_size"), config.bool("attention_bias")
    experts = config.int("num_local_experts", high=MAX_EXPERTS)
    maps = ("gate_up_proj", "down_proj")
    mixture = MoE(
        Router(hidden, experts, bias=True),
        GatedMLP(hidden, config.int("intermediate_size"), bias=True, names=maps, role="expert"),
        experts,
        config.int("num_experts_per_tok"),
        router_name="router",
        stacked=StackedExperts(
            hidden, config.int("intermediate_size"), experts, activation="gpt_oss", transposed=True, bias=True
        ),
        style="gpt_oss",
    )
    plain, norm = gqa(config, hidden, bias=bias, out_bias=bias), Norm(hidden, style="rms in fp32")

    def layer(window: int | None) -> Module:
        parts = pre_norm_layer(hidden, SinkAttention.of(plain, window), mixture).members
        return Module({**parts, "input_layernorm": norm, "post_attention_layernorm": norm})

    windows = sliding_windows(config, config.depth("num_hidden_layers"))
    model = causal_lm(config, by_kind(windows, layer), norm)
    if any(windows):
        return model
    return replace(model, unplayed=(*model.unplayed, "gpt_oss without sliding windows"))  # whose mask is made anyway


def sliding_windows(config: Config, layers: int) -> list[int | None]:
    """Return the window of every layer, None where attention is full: by layer_types, else every other layer."""
    window = config.optional_int("sliding_window")
    kinds = listed(config, layers, allowed=(SLIDING, FULL))
    if kinds is None:
        kinds = [FULL if index % 2 else SLIDING for index in range(layers)]
    return [window if kind == SLIDING else None for kind in kinds]
