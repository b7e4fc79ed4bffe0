"""Xiaomi MiMo-V2-Flash: full and sliding attention with different key/value heads, values narrower than keys.

Class defaults and structure: transformers 5.23, models/mimo_v2_flash; prediction layers as vLLM reads them from
the published checkpoint (model_executor/models/mimo_v2_mtp.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Module, Part, Stack
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.sink_attention import ShiftedAttention
from oomph.config import Config
from oomph.families.common import causal_lm, turned_of_kind
from oomph.families.moe_layers import by_kind, mlp_kinds, one_of, pre_norm_layer, routed_moe
from oomph.families.mtp import predictors, with_mtp
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "mimo_v2_flash": {
        "vocab_size": 152576, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 48,
        "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128,
        "max_position_embeddings": 131072, "tie_word_embeddings": False, "moe_intermediate_size": 2048,
        "num_experts_per_tok": 8, "n_routed_experts": 256, "sliding_window": 129,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {"mimo_v2_flash": {"n_routed_experts": ("num_local_experts",)}}

FULL, SLIDING = "full_attention", "sliding_attention"
_TURNED = 0.334  # which part of a head's channels, by default
_PERIOD = 6  # by default the first layer and every sixth see everything
_UNANNOUNCED = "The published checkpoint also holds multi-token-prediction layers that its config does not mention."


def build(config: Config) -> Model:
    """Return the decoder: a dense first layer, then experts without a shared one."""
    hidden, layers = config.size("hidden_size"), config.depth("num_hidden_layers")
    kinds = list(zip(attention_kinds(config, layers), sparse_layers(config, layers), strict=True))
    dense = GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu"))

    def layer(kind: tuple[str, str]) -> Module:
        mlp = routed_moe(config, hidden, shared="", style="mimo_v2_flash") if kind[1] == "sparse" else dense
        return pre_norm_layer(hidden, attention(config, hidden, kind[0]), mlp)

    model = causal_lm(config, by_kind(kinds, layer), Norm(hidden))
    times = predictors(config)
    if not times:
        return replace(model, notes=(*model.notes, _UNANNOUNCED))
    predictor = next_token_layer(hidden, attention(config, hidden, SLIDING), dense)
    return with_mtp(model, {"model.mtp.layers": Stack((predictor,) * times, kind="mtp")})


def attention_kinds(config: Config, layers: int) -> list[str]:
    """Return the attention of every layer: layer_types, else hybrid_layer_pattern (1 is sliding), else the rule."""
    listed = config.layer_list("layer_types", layers)
    if listed is not None:
        return one_of(config, "layer_types", listed, (FULL, SLIDING))
    pattern = config.layer_list("hybrid_layer_pattern", layers)
    if pattern is not None:
        return [SLIDING if entry else FULL for entry in pattern]
    return [FULL if i == 0 or not (i + 1) % _PERIOD else SLIDING for i in range(layers)]


def sparse_layers(config: Config, layers: int) -> list[str]:
    """Return "dense" or "sparse" per layer: mlp_layer_types, else moe_layer_freq (1 is sparse), else one dense."""
    pattern = config.layer_list("moe_layer_freq", layers)
    if pattern is not None and config.get("mlp_layer_types") is None:
        return ["sparse" if entry else "dense" for entry in pattern]
    return mlp_kinds(config, layers, 1)


def attention(config: Config, hidden: int, kind: str) -> ShiftedAttention:
    """Return one layer's attention; sliding layers have twice the key/value heads, and sinks."""
    kv_heads, sliding = config.int("num_key_value_heads"), kind == SLIDING
    if sliding:
        kv_heads = config.optional_int("swa_num_key_value_heads") or 2 * kv_heads
    return ShiftedAttention(
        hidden,
        config.int("num_attention_heads"),
        kv_heads,
        config.int("head_dim"),
        v_head_dim=config.int("v_head_dim"),
        qkv_bias=config.bool("attention_bias"),
        sinks=sliding,
        sliding_window=sliding_window(config) if sliding else None,
        dropout=config.rate("attention_dropout", 0.0),
        rotary="partial",
        rotary_dim=turned_of_kind(config, config.int("head_dim"), kind, _TURNED, _TURNED),
        own_tables=True,
    )


def sliding_window(config: Config) -> int:
    """Return what a token sees, itself included; the published key counts those before it."""
    before = config.optional_int("sliding_window_size")
    return config.int("sliding_window") if before is None else before + 1


def next_token_layer(hidden: int, self_attn: ShiftedAttention, dense: GatedMLP) -> Module:
    """Return a prediction layer: sliding attention and a dense MLP behind a map from 2·H to H."""
    norms: dict[str, Part] = {
        name: Norm(hidden) for name in ("enorm", "hnorm", "input_layernorm", "pre_mlp_layernorm", "final_layernorm")
    }
    return Module({"eh_proj": Linear(2 * hidden, hidden), "self_attn": self_attn, "mlp": dense, **norms})
