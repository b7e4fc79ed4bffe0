"""The decoders inside vision-language models that have a type of their own: Qwen2-VL, Qwen3-VL, Qwen-Omni, GLM-4V.

Class defaults and structure: transformers 5.23, the text classes of the models named by the types.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module, Parts
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router, shared_expert
from oomph.config import MAX_DEPTH, MAX_EXPERTS, Config
from oomph.families.common import causal_lm, head_dim, rotary_dim
from oomph.families.moe_layers import stacked
from oomph.families.qwen import sliding_windows
from oomph.model import Model

_QWEN2: dict[str, Any] = {
    "vocab_size": 152064, "hidden_size": 8192, "intermediate_size": 29568, "num_hidden_layers": 80,
    "num_attention_heads": 64, "num_key_value_heads": 8, "max_position_embeddings": 32768, "sliding_window": 4096,
    "max_window_layers": 80,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen2_5_omni_text": {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
        "sliding_window": 32768, "max_window_layers": 28, "tie_word_embeddings": True,
    },
    "qwen3_vl_text": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "attention_bias": False,
        "max_position_embeddings": 128000,
    },
    "qwen3_vl_moe_text": {
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 16, "attention_bias": False, "decoder_sparse_step": 1,
        "moe_intermediate_size": 1408, "num_experts_per_tok": 4, "num_experts": 60,
        "max_position_embeddings": 128000, "tie_word_embeddings": True,
    },
    "qwen3_omni_moe_text": {
        "vocab_size": 3584, "hidden_size": 2048, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "attention_bias": False, "decoder_sparse_step": 1,
        "moe_intermediate_size": 768, "num_experts_per_tok": 8, "num_experts": 128, "norm_topk_prob": True,
        "max_position_embeddings": 32768,
    },
    "glm4v_text": {
        "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40,
        "num_attention_heads": 32, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    },
    "glm4v_moe_text": {
        "vocab_size": 151424, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46,
        "num_attention_heads": 96, "num_key_value_heads": 8, "attention_bias": True,
        "moe_intermediate_size": 1408, "num_experts_per_tok": 8, "n_shared_experts": 1, "n_routed_experts": 128,
        "first_k_dense_replace": 1, "max_position_embeddings": 65536, "tie_word_embeddings": False,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "qwen3_vl_moe_text": {"num_experts": ("num_local_experts",)},
    "glm4v_moe_text": {"n_routed_experts": ("num_local_experts", "num_experts")},
}

# Classes whose queries, keys and values have a bias whatever the file says.
BIASED = {"qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text", "glm4v_text"}
MAPS_FIRST = {
    "qwen2_vl_text",
    "qwen2_5_vl_text",
    "qwen2_5_omni_text",
    "glm4v_text",
}  # queries, keys and values are made before any is reshaped
FACTORS = {"glm4v_text": 1.0, "glm4v_moe_text": 0.5}  # how much of a head is turned where the file does not say
ROTARY = {"glm4v_text": "glm4v", "glm4v_moe_text": "partial"}
NO_HEAD_DIM = {"qwen2_vl_text", "qwen2_5_vl_text", "glm4v_text"}  # always hidden / heads


def build(config: Config) -> Model:
    """Return the decoder: dense layers, experts, or some of each."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    norms: dict[str, Norm] = {"input_layernorm": Norm(hidden), "post_attention_layernorm": Norm(hidden)}
    names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    if config.model_type == "glm4v_text":
        norms |= {"post_self_attn_layernorm": Norm(hidden), "post_mlp_layernorm": Norm(hidden)}
        names = ("gate_up_proj", "down_proj")
    attention = self_attention(config, hidden)
    act = config.str("hidden_act", "silu")
    mlp = GatedMLP(hidden, config.int("intermediate_size"), names=names, activation=act)
    windows = sliding_windows(config, depth)
    kinds = {
        window: Module({"self_attn": replace(attention, sliding_window=window), "mlp": mlp, **norms})
        for window in dict.fromkeys(windows)
    }
    layers: list[Block] = [kinds[window] for window in windows]
    if "moe" in config.model_type:
        sparse = Module({"self_attn": attention, "mlp": experts(config, hidden), **norms})
        layers = [sparse if is_sparse(config, i) else layer for i, layer in enumerate(layers)]
    tied = config.bool("tie_word_embeddings")
    return causal_lm(config, layers, Norm(hidden), tied=tied)


def self_attention(config: Config, hidden: int) -> Attention:
    """Return the attention: with bias (Qwen2, GLM) or with norms on queries and keys (Qwen3)."""
    kind, heads = config.model_type, config.int("num_attention_heads")
    bias = kind in BIASED or config.bool("attention_bias")
    plain = kind in NO_HEAD_DIM
    size = config.divide(hidden, heads, "attention heads") if plain else head_dim(config, hidden, heads)
    norm = Norm(size) if kind.startswith("qwen3") else None
    turned: dict[str, Any] = {}
    if kind in FACTORS:
        turned = {"rotary": ROTARY[kind], "rotary_dim": rotary_dim(config, size, FACTORS[kind])}
    return Attention(
        hidden, heads, config.optional_int("num_key_value_heads") or heads, size, qkv_bias=bias,
        out_bias=bias and kind.startswith("qwen3"), q_norm=norm, k_norm=norm,
        dropout=config.rate("attention_dropout", 0.0), norm_place="whole" if kind in MAPS_FIRST else "heads",
        **turned,
    )  # fmt: skip


def experts(config: Config, hidden: int) -> MoE:
    """Return the mixture: GLM's with experts every token uses and a correction bias."""
    glm = config.model_type == "glm4v_moe_text"
    count = config.int("n_routed_experts" if glm else "num_experts", high=MAX_EXPERTS)
    ffn = config.int("moe_intermediate_size")
    router = Router(hidden, count, correction="e_score_correction_bias" if glm else "")
    expert = GatedMLP(hidden, ffn, role="expert")
    extra: Parts | None = None
    played: dict[str, Any] = {}
    if glm:
        shared = GatedMLP(
            hidden,
            ffn * config.int("n_shared_experts", high=MAX_EXPERTS),
            activation=config.str("hidden_act", "silu"),
        )
        extra = {"shared_experts": shared_expert(shared)}
        played = {
            "stacked": stacked(config, hidden, ffn, count),
            "experts_first": True,
            "style": "deepseek_v3",
            "normalised": config.bool("norm_topk_prob", default=True),
            "groups": (config.optional_int("n_group") or 1, config.optional_int("topk_group") or 1),
        }
    if config.model_type in ("qwen3_vl_moe_text", "qwen3_omni_moe_text"):
        played = {
            "stacked": stacked(config, hidden, ffn, count),
            "experts_first": True,
            "style": "qwen3_moe",
            "normalised": config.model_type == "qwen3_vl_moe_text" or config.bool("norm_topk_prob"),
        }
    return MoE(router, expert, count, config.int("num_experts_per_tok"), extra=extra, **played)


def is_sparse(config: Config, layer: int) -> bool:
    """Tell whether this layer has experts: GLM after the first dense ones, Qwen every so many but those listed."""
    if config.model_type == "glm4v_moe_text":
        return layer >= config.int("first_k_dense_replace", 0, MAX_DEPTH)
    dense = config.ints("mlp_only_layers") or []
    return layer not in dense and (layer + 1) % config.int("decoder_sparse_step") == 0
