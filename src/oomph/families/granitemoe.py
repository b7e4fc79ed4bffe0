"""IBM Granite-MoE: a mixture in every layer, gate and up fused, in some versions with a shared MLP beside it.

Class defaults and structure: transformers 5.23, models/granitemoe, granitemoeshared and granitemoe_swa; names as
the checkpoints spell them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router, shared_expert
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import by_window, causal_lm, with_head
from oomph.families.layer_types import FULL, SLIDING, listed, sliding_after_full, windows
from oomph.families.moe_layers import gqa, stacked
from oomph.model import Model

_BASE: dict[str, Any] = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {
    "granitemoe": _BASE,
    "granitemoeshared": {**_BASE, "shared_intermediate_size": 0},
    "granitemoe_swa": {**_BASE, "shared_intermediate_size": 0, "sliding_window": 128},
}

SWA_INTERVAL = 4  # without layer_types every fourth layer from the first on is full
_MAPS = ("input_linear", "output_linear")


def build(config: Config) -> Model:
    """Return the decoder, every layer the same; the sliding-window version has attention sinks."""
    hidden, bias = config.size("hidden_size"), config.bool("attention_bias")
    experts = config.int("num_local_experts", high=MAX_EXPERTS)
    attention = gqa(config, hidden, bias=bias, out_bias=bias)
    depth = config.depth("num_hidden_layers")
    places: list[int | None] = [None] * depth
    unplayed: tuple[str, ...] = ()
    if config.model_type == "granitemoe_swa":
        attention = replace(attention, sinks=True)
        types = listed(config, depth, allowed=(SLIDING, FULL)) or sliding_after_full(depth, SWA_INTERVAL)
        places, unplayed = windows(config, types)
    shared = 0
    if config.model_type != "granitemoe":
        shared = config.int("shared_intermediate_size", low=0)
    rest = {
        "input_layernorm": Norm(hidden),
        "post_attention_layernorm": Norm(hidden),
        "block_sparse_moe": MoE(
            Router(hidden, experts, linear="layer", flat=True),
            GatedMLP(hidden, config.int("intermediate_size"), names=_MAPS, role="expert"),
            experts,
            config.int("num_experts_per_tok"),
            router_name="router",
            stacked=stacked(config, hidden, config.int("intermediate_size"), experts),
            style="granitemoe",
        ),
        "shared_mlp": shared_mlp(config, hidden, shared) if shared else None,
    }
    layers = by_window(places, lambda each: Module({"self_attn": replace(attention, sliding_window=each), **rest}))
    return with_head(causal_lm(config, layers, Norm(hidden), unplayed=unplayed), scaled=True)


def shared_mlp(config: Config, hidden: int, ffn: int) -> GatedMLP:
    """Return the MLP that every token passes through."""
    activation = config.str("hidden_act", "silu")
    return shared_expert(GatedMLP(hidden, ffn, names=_MAPS, activation=activation, granite=True))
