"""BLOOM and MPT: ALiBi in place of position tables, 4·H MLP, tied head.

BLOOM has biases everywhere and a norm on the embedding; MPT has no bias at all.
Class defaults and structure: transformers 5.23, models/bloom and models/mpt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.families.common import causal_lm
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "bloom": {
        "vocab_size": 250880, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8,
        "tie_word_embeddings": True,
    },
    "mpt": {
        "vocab_size": 50368, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "bloom": {
        "hidden_size": ("n_embed",), "num_hidden_layers": ("n_layer",), "num_attention_heads": ("n_head",),
        "max_position_embeddings": ("seq_length",),
    },
    "mpt": {
        "hidden_size": ("d_model",), "num_hidden_layers": ("n_layers",), "num_attention_heads": ("n_heads",),
        "max_position_embeddings": ("max_seq_len",),
    },
}  # fmt: skip

MPT_CONTEXT = 2048  # the class default of max_seq_len


@dataclass(frozen=True, eq=False)
class BloomLayer(Module):
    """A layer of BLOOM: the dropout rate after each sublayer, and whether the sums start from the norms' outputs."""

    rate: float = 0.0
    residual_after_norm: bool = False


@dataclass(frozen=True)
class MptAttention(Attention):
    """MPT's: whether what its map makes is bounded, and for how many positions ALiBi is made."""

    clipped: bool = False
    positions: int = 0


@dataclass(frozen=True, eq=False)
class MptLayer(Module):
    """A layer of MPT: the dropout rate after each sublayer."""

    rate: float = 0.0


def build(config: Config) -> Model:
    """Return the decoder of either family."""
    return mpt(config) if config.model_type == "mpt" else bloom(config)


def bloom(config: Config) -> Model:
    """Return BLOOM."""
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    norm = Norm(hidden, bias=True)
    layer = BloomLayer(
        {
            "input_layernorm": norm,
            "self_attention": Attention(
                hidden, heads, heads, config.divide(hidden, heads, "attention heads"),
                qkv_bias=True, out_bias=True, qkv=("query_key_value",), out="dense",
                dropout=config.rate("attention_dropout", 0.0),
            ),
            "post_attention_layernorm": norm,
            "mlp": MLP(hidden, 4 * hidden, bias=True, names=("dense_h_to_4h", "dense_4h_to_h")),
        },
        rate=config.rate("hidden_dropout", 0.0),
        residual_after_norm=config.bool("apply_residual_connection_post_layernorm"),
    )  # fmt: skip
    model = causal_lm(
        config,
        (layer,) * config.depth("num_hidden_layers"),
        norm,
        embed="transformer.word_embeddings",
        extra={"transformer.word_embeddings_layernorm": norm},
        stack="transformer.h",
        norm="transformer.ln_f",
    )
    split = config.bool("slow_but_exact") and (config.optional_int("pretraining_tp") or 1) > 1
    return replace(model, unplayed=(*model.unplayed, "slow_but_exact")) if split else model


def mpt(config: Config) -> Model:
    """Return MPT; the class has 4·H, multi-head and no bias whatever expansion_ratio and attn_config say."""
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    width = config.divide(hidden, heads, "attention heads")
    norm, inner = Norm(hidden, style="layer"), config.sub("attn_config", {})
    rate = inner.rate("attn_pdrop", 0.0)
    attention = MptAttention(
        hidden, heads, heads, width, qkv=("Wqkv",), out="out_proj", dropout=rate, clipped=bool(inner.get("clip_qkv")),
        positions=config.optional_int("max_position_embeddings") or MPT_CONTEXT,
    )  # fmt: skip
    mlp = MLP(hidden, 4 * hidden, activation="gelu")
    layer = MptLayer({"norm_1": norm, "attn": attention, "norm_2": norm, "ffn": mlp}, rate=rate)
    return causal_lm(
        config,
        (layer,) * config.depth("num_hidden_layers"),
        norm,
        embed="transformer.wte",
        stack="transformer.blocks",
        norm="transformer.norm_f",
    )
