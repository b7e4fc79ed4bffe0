"""GLM-4.5 and its kin (DeepSeek-MoE, dots.llm1, Solar-Open, EXAONE-MoE, HY-3): grouped-query attention and
DeepSeek's mixture of many small experts with a shared one.

Class defaults and structure: transformers 5.23, models/glm4_moe and the others by name; `deepseek` is the remote
code of deepseek-moe-16b.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.families.common import causal_lm, rotary_dim
from oomph.families.layer_types import FULL, SLIDING, listed, patterned
from oomph.families.moe_layers import by_kind, dense_first, gqa, mlp_kinds, pre_norm_layer, routed_moe
from oomph.families.mtp import after_layers, next_token_layer, predictors, with_mtp
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "glm4_moe": {
        "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
        "num_attention_heads": 96, "num_key_value_heads": 8, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "moe_intermediate_size": 1408, "num_experts_per_tok": 8,
        "n_shared_experts": 1, "n_routed_experts": 128, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1,
    },
    "deepseek": {
        "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 30,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "moe_intermediate_size": 1407, "first_k_dense_replace": 0, "moe_layer_freq": 1,
    },
    "dots1": {
        "vocab_size": 152064, "hidden_size": 4608, "intermediate_size": 10944, "num_hidden_layers": 62,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, "moe_intermediate_size": 1408, "first_k_dense_replace": 0,
        "sliding_window": 4096, "max_window_layers": 62,
    },
    "solar_open": {
        "vocab_size": 196608, "hidden_size": 4096, "num_hidden_layers": 48, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "moe_intermediate_size": 1280, "num_experts_per_tok": 8,
        "n_shared_experts": 1, "n_routed_experts": 128,
    },
    "exaone_moe": {
        "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, "moe_intermediate_size": 1024, "num_experts_per_tok": 8,
        "num_shared_experts": 1, "num_experts": 64, "first_k_dense_replace": 1, "sliding_window": 4096,
    },
    "hy_v3": {
        "vocab_size": 120832, "hidden_size": 4096, "intermediate_size": 13312, "num_hidden_layers": 80,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "moe_intermediate_size": 1536, "num_experts_per_tok": 8,
        "num_shared_experts": 1, "num_experts": 192,
    },
}  # fmt: skip
STYLES = dict.fromkeys(("dots1", "glm4_moe", "solar_open"), "deepseek_v3")
HALF = 0.5  # of a head's channels are turned in GLM-4.5
_ROUTED: dict[str, tuple[str, ...]] = {"n_routed_experts": ("num_local_experts",)}
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "glm4_moe": {**_ROUTED, "num_nextn_predict_layers": ("num_mtp_layers",)},
    "dots1": _ROUTED,
    "solar_open": _ROUTED,
    "hy_v3": {"num_experts": ("num_local_experts",)},
}

_COPIES_NOTE = (
    "The multi-token-prediction layers are counted with their copies of the embedding and the head, as GLM-4.5 "
    "stores them; GLM-4.6 leaves the copies out."
)


def build(config: Config) -> Model:
    """Return the decoder: the first layers dense (Solar-Open: none), then experts."""
    hidden, layers = config.size("hidden_size"), config.depth("num_hidden_layers")
    self_attn = attention(config, hidden)
    places = sliding_windows(config, layers)

    def layer(kind: tuple[str, int | None]) -> Module:
        mlp = experts(config, hidden) if kind[0] == "sparse" else dense(config, hidden)
        attends = replace(self_attn, sliding_window=kind[1])
        if config.model_type == "exaone_moe" and kind[1] is None and config.optional_int("sliding_window"):
            attends = replace(attends, rotary="")  # where some layers have windows, others turn nothing
        return pre_norm_layer(hidden, attends, mlp)

    kinds = list(zip(mlp_pattern(config, layers), places, strict=True))
    model = causal_lm(config, by_kind(kinds, layer), Norm(hidden))
    if missing := not_played(config, places):
        return replace(model, unplayed=(*model.unplayed, *missing))
    times = predictors(config) if config.model_type == "glm4_moe" else 0
    if not times:
        return model
    predictor = next_token_layer(layer(("sparse", None)), hidden, model.vocab_size, model.vocab_size)
    return with_mtp(model, after_layers(model, times, predictor), _COPIES_NOTE)


def not_played(config: Config, places: list[int | None]) -> tuple[str, ...]:
    """Return what a config asks for that no program does."""
    kind = config.model_type
    found = [f"sliding windows of {kind}"] * (kind == "dots1" and any(places))
    if kind in ("exaone_moe", "hy_v3") and not config.optional_int("num_shared_experts", low=0):
        found.append("num_shared_experts=0")
    if kind == "exaone_moe" and config.optional_int("sliding_window") is None:
        found.append("layers without sliding_window")
    return tuple(found)


def sliding_windows(config: Config, layers: int) -> list[int | None]:
    """Return the window of every layer: by layer_types, else in dots.llm1 those from max_window_layers on have one."""
    if config.model_type not in ("dots1", "exaone_moe"):
        return [None] * layers
    window, kinds = config.optional_int("sliding_window"), listed(config, layers, allowed=(SLIDING, FULL))
    if kinds is None and config.model_type == "dots1":
        first = config.int("max_window_layers", low=0)
        kinds = [FULL if index < first else SLIDING for index in range(layers)]
    if kinds is None:
        kinds = patterned(config, "sliding_window_pattern", layers)
    return [window if kind == SLIDING else None for kind in kinds]


def mlp_pattern(config: Config, layers: int) -> list[str]:
    """Return "dense" or "sparse" per layer as the type's class decides it."""
    if config.model_type == "solar_open":
        return ["sparse"] * layers
    if config.model_type == "hy_v3":
        return mlp_kinds(config, layers, 1)
    start = config.int("first_k_dense_replace", low=0)
    if config.model_type == "exaone_moe":
        return mlp_kinds(config, layers, start)
    kinds = dense_first(layers, start)
    if config.model_type == "deepseek":
        every = config.int("moe_layer_freq")
        kinds = ["dense" if i % every else kind for i, kind in enumerate(kinds)]
    return kinds


def attention(config: Config, hidden: int) -> Attention:
    """Return the attention: who has biases on q, k, v, who on the output too, who norms queries and keys."""
    kind = config.model_type
    bias = kind != "exaone_moe" and config.bool("attention_bias")
    normed = kind in ("dots1", "exaone_moe", "hy_v3") or (kind == "glm4_moe" and config.bool("use_qk_norm"))
    plain = gqa(config, hidden, bias=bias, out_bias=bias and kind not in ("glm4_moe", "solar_open"), qk_norm=normed)
    if kind in ("exaone_moe", "hy_v3"):
        return replace(plain, norm_place="turned")
    if kind != "glm4_moe":
        return plain
    turned = rotary_dim(config, plain.head_dim, HALF)
    return replace(plain, rotary="partial", rotary_dim=turned, norm_place="before turning" if normed else "heads")


def experts(config: Config, hidden: int) -> Block:
    """Return the mixture; EXAONE and HY-3 name their counts their own way, deepseek-moe has no correction bias."""
    if config.model_type in ("exaone_moe", "hy_v3"):
        bias = config.model_type == "hy_v3" and config.bool("mlp_bias")
        style = "deepseek_v3"
        if config.model_type == "hy_v3":
            style = "hy_v3 in fp32" if config.bool("enable_moe_fp32_combine") else "hy_v3"
        made = routed_moe(
            config, hidden, experts="num_experts", shared="num_shared_experts", shared_bias=bias, style=style
        )
        return replace(made, experts_first=config.model_type == "exaone_moe")
    correction = "" if config.model_type == "deepseek" else "e_score_correction_bias"
    return routed_moe(config, hidden, correction=correction, style=STYLES.get(config.model_type, ""))


def dense(config: Config, hidden: int) -> GatedMLP:
    """Return the ordinary MLP of a dense layer."""
    bias = config.model_type == "hy_v3" and config.bool("mlp_bias")
    return GatedMLP(hidden, config.int("intermediate_size"), bias, activation=config.str("hidden_act", "silu"))
