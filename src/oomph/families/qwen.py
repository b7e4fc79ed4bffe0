"""Qwen2, Qwen3 and what took their shape: Llama with a bias on q, k, v, or with a norm on each head of q and k.

Class defaults and structure: transformers 5.23, models/qwen2, qwen3, hunyuan_v1_dense; MiMo (Qwen2 and layers that
predict further tokens): the code of its repository, modeling_mimo.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module, Stack
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.families.common import causal_lm
from oomph.families.layer_types import FULL, SLIDING, listed
from oomph.families.llama import grouped_attention
from oomph.families.mtp import predictors, with_mtp
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "qwen2": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768,
        "tie_word_embeddings": False, "sliding_window": 4096, "max_window_layers": 28,
    },
    "qwen3": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768,
        "tie_word_embeddings": False, "sliding_window": 4096, "max_window_layers": 28,
    },
    "hunyuan_v1_dense": {
        "vocab_size": 290943, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    },
    "mimo": {
        "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    },
}  # fmt: skip


WINDOWED = ("qwen2", "qwen3", "qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text")


def build(config: Config) -> Model:
    """Return the decoder; MiMo's prediction layers stand beside it as "mtp"."""
    hidden = config.size("hidden_size")
    attention = qwen_attention(config, hidden)
    mlp = GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu"))
    norms = {"input_layernorm": Norm(hidden), "post_attention_layernorm": Norm(hidden)}
    windows = sliding_windows(config, config.depth("num_hidden_layers"))
    layers = {
        window: Module({"self_attn": replace(attention, sliding_window=window), "mlp": mlp, **norms})
        for window in dict.fromkeys(windows)
    }
    model = causal_lm(config, [layers[window] for window in windows], Norm(hidden))
    if config.model_type != "mimo" or not predictors(config):
        return model
    mtp_layer = Module(
        {
            **norms,
            "token_layernorm": Norm(hidden),
            "hidden_layernorm": Norm(hidden),
            "input_proj": Linear(2 * hidden, hidden),  # the hidden state beside the next token's embedding
            "final_layernorm": Norm(hidden),
            "self_attn": attention,
            "mlp": mlp,
        }
    )
    return with_mtp(model, {"model.mtp_layers": Stack((mtp_layer,) * predictors(config), kind="mtp")})


def sliding_windows(config: Config, depth: int) -> list[int | None]:
    """Return the window of every layer, None where attention is full (Qwen2Config, Qwen3Config)."""
    if config.model_type not in WINDOWED or not config.bool("use_sliding_window"):
        return [None] * depth
    window = config.optional_int("sliding_window")
    kinds = listed(config, depth, allowed=(SLIDING, FULL))
    if kinds is None:
        first = config.int("max_window_layers", 0)
        kinds = [SLIDING if index >= first else FULL for index in range(depth)]
    return [window if kind == SLIDING else None for kind in kinds]


def qwen_attention(config: Config, hidden: int) -> Attention:
    """Return Qwen2's (q, k, v always biased) or Qwen3's and Hunyuan's (norms on each head, biases by the config)."""
    if config.model_type in ("qwen2", "mimo"):
        return grouped_attention(config, hidden, qkv_bias=True)
    bias = config.bool("attention_bias")
    plain = grouped_attention(config, hidden, qkv_bias=bias, out_bias=bias)
    norm = Norm(plain.head_dim)
    if config.model_type == "hunyuan_v1_dense":
        names = ("query_layernorm", "key_layernorm")
        return replace(plain, q_norm=norm, k_norm=norm, norms=names, norm_place="rotated")
    return replace(plain, q_norm=norm, k_norm=norm)
