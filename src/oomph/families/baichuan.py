"""Baichuan and Baichuan 2: Llama with one map for queries, keys and values; 13B knows positions by ALiBi.

Baichuan 2, told by its vocabulary, brings the rows of its head to length one. Structure: the code of its repositories,
modeling_baichuan.py; no configuration of 13B has max_position_embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.families.common import causal_lm
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {"baichuan": {"tie_word_embeddings": False}}
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {"baichuan": {"max_position_embeddings": ("model_max_length",)}}
VOCABULARY = 125696  # of Baichuan 2


@dataclass(frozen=True)
class PackedAttention(Attention):
    """Attention with tables of cos and sin for so many positions in each layer; none with ALiBi."""

    positions: int = 0


def build(config: Config) -> Model:
    """Return the decoder: every head has keys and values of its own, whatever the file says."""
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    turns = "max_position_embeddings" in config.raw
    attention = PackedAttention(
        hidden, heads, heads, config.divide(hidden, heads, "attention heads"), qkv=("W_pack",),
        rotary="baichuan" if turns else "", positions=config.int("max_position_embeddings") if turns else 0,
    )  # fmt: skip
    norm = Norm(hidden, style="rms mixed")
    layer = Module(
        {
            "self_attn": attention,
            "mlp": GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu")),
            "input_layernorm": norm,
            "post_attention_layernorm": norm,
        }
    )
    second = config.size("vocab_size") == VOCABULARY or "z_loss_weight" in config.raw
    model = causal_lm(config, (layer,) * config.depth("num_hidden_layers"), norm)
    return model if second else replace(model, unplayed=(*model.unplayed, "the first Baichuan"))
