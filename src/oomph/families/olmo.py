"""OLMo 1 (norms without weights), OLMo 2 and 3 (norms after each part, q and k normed over all heads), EXAONE 4.

EXAONE 4 is OLMo 2 with its q and k norms per head. Class defaults and structure: transformers 5.23, models/olmo,
olmo2, olmo3, exaone4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module
from oomph.blocks.basic import BareNorm, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.families.common import by_window, causal_lm
from oomph.families.layer_types import FULL, SLIDING, full_after_sliding, listed, patterned, windows
from oomph.families.llama import grouped_attention
from oomph.model import Model

_OLMO: dict[str, Any] = {
    "vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {
    "olmo": _OLMO,
    "olmo2": _OLMO,
    "olmo3": {**_OLMO, "sliding_window": 4096},
    "exaone4": {
        "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, "sliding_window": 4096,
    },
}  # fmt: skip
STYLE = "rms in fp32"
NORMS = {"olmo": ("input_layernorm", "post_attention_layernorm")}


INTERVAL = 4


def build(config: Config) -> Model:
    """Return the decoder; windowed and full layers hold the same weights."""
    hidden, kind = config.size("hidden_size"), config.model_type
    bias = kind != "exaone4" and config.bool("attention_bias")
    attention = grouped_attention(config, hidden, qkv_bias=bias, out_bias=bias)
    if kind == "exaone4":
        norm = Norm(attention.head_dim)
        attention = replace(attention, q_norm=norm, k_norm=norm, norm_place="turned")
    elif kind == "olmo":
        attention = replace(attention, norm_place="whole", rotary="olmo")
    else:
        queries = attention.num_heads * attention.head_dim
        keys = attention.num_kv_heads * attention.head_dim
        q_norm, k_norm = Norm(queries, style=STYLE), Norm(keys, style=STYLE)
        attention = replace(
            attention, q_norm=q_norm, k_norm=k_norm, norm_place="whole", rotary="olmo", own_tables=kind == "olmo3"
        )
    norms = NORMS.get(kind, ("post_attention_layernorm", "post_feedforward_layernorm"))
    rest = {
        "mlp": GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu")),
        **dict.fromkeys(norms, _norm(kind, hidden)),
    }
    places, unplayed = sliding_windows(config, config.depth("num_hidden_layers"))
    has_windows = config.raw.get("sliding_window", INTERVAL) is not None

    def layer(window: int | None) -> Module:
        nowhere = kind == "exaone4" and window is None and has_windows  # EXAONE's full layers know no positions
        rotary = "" if nowhere else attention.rotary
        return Module({"self_attn": replace(attention, sliding_window=window, rotary=rotary), **rest})

    if kind == "olmo" and config.raw.get("clip_qkv") is not None:
        unplayed = (*unplayed, "clip_qkv")
    return causal_lm(config, by_window(places, layer), _norm(kind, hidden), unplayed=unplayed)


def _norm(kind: str, hidden: int) -> Block:
    """Return a norm over the hidden size; OLMo 1 normalises without scale or bias."""
    if kind == "olmo":
        return BareNorm()
    return Norm(hidden) if kind == "exaone4" else Norm(hidden, style=STYLE)


def sliding_windows(config: Config, depth: int) -> tuple[list[int | None], tuple[str, ...]]:
    """Return the window of every layer, and what of them cannot be played: OLMo 3 makes both masks in any case."""
    kind = config.model_type
    if kind not in ("olmo3", "exaone4"):
        return [None] * depth, ()
    kinds = listed(config, depth, allowed=(SLIDING, FULL))
    if kinds is None:
        olmo = kind == "olmo3"
        kinds = full_after_sliding(depth, INTERVAL) if olmo else patterned(config, "sliding_window_pattern", depth)
        if isinstance(config.get("sliding_window_pattern"), str) or config.optional_int("sliding_window") is None:
            return windows(config, kinds)[0], ("sliding_window_pattern without layer_types",)
    if kind == "olmo3" and SLIDING not in kinds:
        return [None] * depth, ("layers without a window",)
    return windows(config, kinds)
