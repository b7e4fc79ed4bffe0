"""Cohere Command R and R7B/A: attention and MLP side by side behind one norm without bias, tied head.

Class defaults and structure: transformers 5.23, models/cohere and models/cohere2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Module
from oomph.blocks.basic import Norm
from oomph.blocks.head_norm import StackedHeadNorm
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.families.common import by_window, causal_lm, with_head
from oomph.families.layer_types import FULL, SLIDING, full_after_sliding, listed, windows
from oomph.families.llama import grouped_attention
from oomph.model import Model

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
    "num_attention_heads": 64, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {"cohere": _DEFAULTS, "cohere2": {**_DEFAULTS, "sliding_window": 4096}}
INTERVAL = 4


STYLE = "layer written out"


def build(config: Config) -> Model:
    """Return the decoder; Command R+ has a scale for every head and channel of queries and keys.

    Command R7B turns queries and keys by their positions only where there is a window.
    """
    hidden, bias, depth = config.size("hidden_size"), config.bool("attention_bias"), config.depth("num_hidden_layers")
    attention = grouped_attention(config, hidden, qkv_bias=bias, out_bias=bias, rotary="cohere")
    if config.model_type == "cohere" and config.bool("use_qk_norm"):
        attention = replace(
            attention,
            q_norm=StackedHeadNorm(attention.num_heads, attention.head_dim),
            k_norm=StackedHeadNorm(attention.num_kv_heads, attention.head_dim),
            norm_place="before turning",
        )
    rest = {
        "mlp": GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu")),
        "input_layernorm": Norm(hidden, style=STYLE),
    }
    places, unplayed = sliding_windows(config, depth)

    def layer(window: int | None) -> Module:
        rotary = "cohere" if window is not None or config.model_type == "cohere" else ""
        return Module({"self_attn": replace(attention, sliding_window=window, rotary=rotary), **rest})

    model = causal_lm(config, by_window(places, layer), Norm(hidden, style=STYLE), unplayed=unplayed)
    return with_head(model, scaled=True)


def sliding_windows(config: Config, depth: int) -> tuple[list[int | None], tuple[str, ...]]:
    """Return the window of every layer, and what of them cannot be played: both masks are made whatever the layers."""
    if config.model_type == "cohere":
        return [None] * depth, ()
    kinds = listed(config, depth, allowed=(SLIDING, FULL))
    if kinds is None:
        kinds = full_after_sliding(depth, config.optional_int("sliding_window_pattern") or INTERVAL)
    return windows(config, kinds) if SLIDING in kinds else ([None] * depth, ("layers without a window",))
