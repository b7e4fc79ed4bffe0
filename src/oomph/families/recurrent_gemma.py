"""RecurrentGemma (Griffin): two recurrent layers, then one of local attention, all with a gated MLP.

Class defaults and structure: transformers 5.23, models/recurrent_gemma.
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.rg_lru import RecurrentBlock
from oomph.config import MAX_DEPTH, Config
from oomph.families.common import causal_lm, head_dim, rotary_dim
from oomph.families.gemma import STYLE
from oomph.families.moe_layers import by_kind, one_of
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "recurrent_gemma": {
        "vocab_size": 256000, "hidden_size": 2560, "intermediate_size": 7680, "num_hidden_layers": 26,
        "num_attention_heads": 10, "conv1d_width": 4, "attention_window_size": 2048,
        "attention_bias": False, "tie_word_embeddings": True,
        "block_types": ("recurrent", "recurrent", "attention"),
    },
}  # fmt: skip

TURNED = 0.5  # of a head's channels


def build(config: Config) -> Model:
    """Return the decoder; `block_types` is a pattern repeated over the layers."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    pattern = one_of(config, "block_types", config.list("block_types", MAX_DEPTH) or [], ("recurrent", "attention"))
    if not pattern:
        raise config.error("block_types", "names no kind of layer")

    def layer(kind: str) -> Block:
        return Module(
            {
                "temporal_pre_norm": Norm(hidden, style=STYLE),
                "temporal_block": recurrence(config, hidden) if kind == "recurrent" else attention(config, hidden),
                "channel_pre_norm": Norm(hidden, style=STYLE),
                # intermediate_size counts gate and up together
                "mlp_block": GatedMLP(
                    hidden, config.int("intermediate_size", low=2) // 2, bias=True, activation=activation(config)
                ),
            }
        )

    kinds = list(islice(cycle(pattern), depth))
    unplayed = () if "attention" in kinds else ("a decoder without attention",)
    norm = Norm(hidden, style=STYLE)
    return causal_lm(config, by_kind(kinds, layer), norm, norm="model.final_norm", unplayed=unplayed)


def recurrence(config: Config, hidden: int) -> Block:
    """Return the recurrent block; its gates have one diagonal block per attention head."""
    width, blocks = config.optional_int("lru_width") or hidden, config.int("num_attention_heads")
    config.divide(width, blocks, "blocks of the recurrence gates")
    return RecurrentBlock(hidden, width, blocks, config.int("conv1d_width"), activation(config))


def activation(config: Config) -> str:
    """Return what stands between the maps of the MLP, and on the second branch of a recurrent block."""
    return config.str("hidden_activation", "gelu_pytorch_tanh")


def attention(config: Config, hidden: int) -> Block:
    """Return local attention; the output map always has a bias."""
    heads = config.int("num_attention_heads")
    kv_heads = config.optional_int("num_key_value_heads") or heads
    size = head_dim(config, hidden, heads)
    bias, window = config.bool("attention_bias"), config.int("attention_window_size")
    return Attention(
        hidden, heads, kv_heads, size, qkv_bias=bias, out_bias=True, sliding_window=window, rotary="partial",
        rotary_dim=rotary_dim(config, size, TURNED), dropout=config.rate("attention_dropout", 0.0),
    )  # fmt: skip
