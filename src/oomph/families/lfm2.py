"""LFM2, LFM2-MoE and LFM3: short convolutions, with attention in some layers; experts after the first layers (MoE).

Class defaults and structure: transformers 5.23, models/lfm2, models/lfm2_moe, models/lfm3.
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router, StackedExperts
from oomph.blocks.short_conv import ShortConv
from oomph.config import MAX_DEPTH, MAX_EXPERTS, MAX_SIZE, Config
from oomph.errors import ConfigError
from oomph.families.common import causal_lm, head_dim
from oomph.families.layer_types import FULL, listed
from oomph.families.moe_layers import by_kind, dense_first
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "lfm2": {
        "vocab_size": 65536, "hidden_size": 2560, "intermediate_size": 12288, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 128000,
        "tie_word_embeddings": True, "conv_bias": False, "conv_L_cache": 3, "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": True,
    },
    "lfm2_moe": {
        "vocab_size": 65536, "hidden_size": 2048, "intermediate_size": 7168, "moe_intermediate_size": 1792,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 128000, "tie_word_embeddings": True, "conv_bias": False, "conv_L_cache": 3,
        "num_dense_layers": 2, "num_experts": 32, "num_experts_per_tok": 4, "use_expert_bias": True,
    },
    "lfm3": {
        "vocab_size": 128000, "hidden_size": 2048, "intermediate_size": 7680, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 128000,
        "tie_word_embeddings": True, "conv_bias": False, "conv_L_cache": 7, "attention_bias": False,
        "sliding_window": 256,
        "use_sandwich_norm": True, "use_attention_gate": True,
    },
}  # fmt: skip

CONV, SLIDING = "conv", "sliding_attention"
LFM3_PATTERN = (SLIDING, CONV, FULL, CONV)  # repeated over the layers, the first one excepted
MLP_NAMES = ("w1", "w3", "w2")  # gate, up, down
GATED_MAPS = len(MLP_NAMES)


def build(config: Config) -> Model:
    """Return the decoder: two kinds of mixer times two kinds of feed-forward."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    feeds = ["dense"] * depth
    if config.model_type == "lfm2_moe":
        feeds = dense_first(depth, config.int("num_dense_layers", low=0, high=MAX_DEPTH))
    sandwich = config.model_type == "lfm3" and config.bool("use_sandwich_norm")
    after = ("post_operator_norm", "post_ffn_norm") if sandwich else ()

    def layer(kind: tuple[str, str]) -> Block:
        mixes, feed = kind
        mixer = (
            {"conv": short_conv(config, hidden)} if mixes == CONV else {"self_attn": attention(config, hidden, mixes)}
        )
        return Module(
            {
                **mixer,
                "feed_forward": mixture(config, hidden) if feed == "sparse" else mlp(config, hidden),
                "operator_norm": Norm(hidden),
                "ffn_norm": Norm(hidden),
                **{name: Norm(hidden) for name in after},
            }
        )

    kinds = mixer_kinds(config, depth)
    layers = by_kind(list(zip(kinds, feeds, strict=True)), layer)
    tied = config.bool("tie_word_embeddings")
    if config.model_type != "lfm3":
        tied = config.bool("tie_embedding", default=tied)  # the published configs' name wins
    unplayed = () if {FULL, SLIDING} & {*kinds} else ("a decoder without attention",)
    if SLIDING in kinds and config.optional_int("sliding_window") is None:
        unplayed = (*unplayed, "sliding layers without a window")
    return causal_lm(config, layers, Norm(hidden), norm="model.embedding_norm", tied=tied, unplayed=unplayed)


def mixer_kinds(config: Config, layers: int) -> list[str]:
    """Return the kind of every layer: layer_types, else LFM3's pattern, LFM2's indices of attention or all of them."""
    lfm3 = config.model_type == "lfm3"
    kinds = listed(config, layers, allowed=(FULL, SLIDING, CONV) if lfm3 else (FULL, CONV))
    if kinds is not None:
        return kinds
    if config.model_type == "lfm2_moe":
        raise ConfigError("layer_types is missing.", f"Add layer_types to {config.where}: it says which layer is what.")
    if lfm3:
        return [CONV, *islice(cycle(LFM3_PATTERN), 1, layers)]
    attending = config.ints("full_attn_idxs", high=MAX_DEPTH)
    at = set(range(layers) if attending is None else attending)
    return [FULL if index in at else CONV for index in range(layers)]


def short_conv(config: Config, hidden: int) -> Block:
    """Return the gated convolution of `conv_L_cache` tokens."""
    return ShortConv(hidden, config.int("conv_L_cache"), config.bool("conv_bias"))


def attention(config: Config, hidden: int, kind: str) -> Block:
    """Return grouped-query attention with norms per head, in LFM3 with a gate per head."""
    heads = config.int("num_attention_heads")
    size = head_dim(config, hidden, heads)
    norm, names = Norm(size), ("q_layernorm", "k_layernorm")
    kv_heads = config.int("num_key_value_heads")
    if config.model_type == "lfm3":
        bias, gate = config.bool("attention_bias"), "g_proj" if config.bool("use_attention_gate") else ""
        return Attention(
            hidden, heads, kv_heads, size, qkv_bias=bias, out_bias=bias, q_norm=norm, k_norm=norm, head_gate=gate,
            rotary="olmo", dropout=config.rate("attention_dropout", 0.0),
            sliding_window=config.optional_int("sliding_window") if kind == SLIDING else None,
        )  # fmt: skip
    return Attention(
        hidden, heads, kv_heads, size, out="out_proj", out_apart=True, q_norm=norm, k_norm=norm, norms=names
    )


def mlp(config: Config, hidden: int) -> Block:
    """Return the gated MLP, in LFM2 of the width its block keys make of the nominal one."""
    ffn = adjusted_ffn(config) if config.model_type == "lfm2" else config.int("intermediate_size")
    return GatedMLP(hidden, ffn, names=MLP_NAMES)


def adjusted_ffn(config: Config) -> int:
    """Return LFM2's ffn width: two thirds of the nominal width times a factor, rounded up to a multiple.

    LFM2-1.2B: 12288 · 2/3 = 8192, a multiple of 256.
    """
    nominal = config.optional_int("block_ff_dim") or config.int("intermediate_size")
    if not config.bool("block_auto_adjust_ff_dim"):
        return nominal
    ffn = 2 * nominal // GATED_MAPS  # as many weights as a plain MLP of two maps of the nominal width has
    if config.get("block_ffn_dim_multiplier") is not None:
        multiple = config.int("block_multiple_of")
        ffn = multiple * -(-int(config.float("block_ffn_dim_multiplier") * ffn) // multiple)
    if not 1 <= ffn <= MAX_SIZE:
        raise config.error("block_ffn_dim_multiplier", f"makes an ffn width of {str(ffn)[:40]}")
    return ffn


def mixture(config: Config, hidden: int) -> Block:
    """Return the experts; the router's balancing bias is a buffer beside them."""
    number, ffn = config.int("num_experts", high=MAX_EXPERTS), config.int("moe_intermediate_size")
    bias = {"expert_bias": Tensor((number,), "buffer")} if config.bool("use_expert_bias") else {}
    return MoE(
        Router(hidden, number),
        GatedMLP(hidden, ffn, names=MLP_NAMES, role="expert"),
        number,
        config.int("num_experts_per_tok"),
        extra=bias,
        stacked=StackedExperts(hidden, ffn, number),
        experts_first=True,
        style="lfm2_moe",
        normalised=config.bool("norm_topk_prob", default=True),
    )
