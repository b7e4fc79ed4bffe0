"""Zamba2: Mamba-2 layers, and a few shared transformer blocks that take turns beside some of them.

Each shared block is stored once; every use of it has low-rank adapters of its own on the MLP and, if the config
says so, on queries, keys and values. Class defaults and structure: transformers 5.23, models/zamba2.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.mamba import Mamba2
from oomph.blocks.shared import AdaptedAttention, AdaptedMLP, Reused
from oomph.config import MAX_DEPTH, Config
from oomph.errors import ConfigError
from oomph.families.common import causal_lm
from oomph.families.layer_types import HYBRID, LINEAR, listed
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "zamba2": {
        "vocab_size": 32000, "hidden_size": 2560, "num_hidden_layers": 54, "num_attention_heads": 32,
        "max_position_embeddings": 4096, "tie_word_embeddings": True, "n_mamba_heads": 8, "mamba_ngroups": 1,
        "mamba_d_state": 64, "mamba_d_conv": 4, "mamba_expand": 2, "add_bias_linear": False, "num_mem_blocks": 1,
        "use_shared_attention_adapter": False, "adapter_rank": 128, "chunk_size": 256, "use_mem_rope": False,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "zamba2": {"layers_block_type": ("layer_types",), "attention_head_dim": ("head_dim",)}
}


def build(config: Config) -> Model:
    """Return the decoder; a shared block's weights stand in the first layer that uses it."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    kinds = layer_kinds(config, depth)
    mamba = Module({"mamba": mixer(config, hidden), "input_layernorm": Norm(hidden)})
    layers: list[Block] = [mamba] * depth
    places = [index for index, kind in enumerate(kinds) if kind == HYBRID]
    blocks = config.int("num_mem_blocks", high=MAX_DEPTH)
    shares = config.bool("tie_word_embeddings")  # untied, the class shares nothing
    for turn, first in enumerate(places[:blocks]):
        block = shared_block(config, hidden, tuple(map(str, range(turn, len(places), blocks))))
        own = {"linear": Linear(hidden, hidden), "mamba_decoder": mamba}
        later = Module({**own, "shared_transformer": Reused(block) if shares else block})
        for index in places[turn::blocks]:
            layers[index] = later
        layers[first] = Module({**own, "shared_transformer": block})
    return causal_lm(config, layers, Norm(hidden), norm="model.final_layernorm")


def layer_kinds(config: Config, depth: int) -> list[str]:
    """Return the kind of every layer, which the config must spell out and may spell twice."""
    kinds = listed(config, depth, "layers_block_type", (LINEAR, HYBRID))
    if kinds is None:
        raise ConfigError("layers_block_type is missing.", f"Add layers_block_type to {config.where}.")
    said = config.ints("hybrid_layer_ids", high=MAX_DEPTH)
    if said is not None and said != [index for index, kind in enumerate(kinds) if kind == HYBRID]:
        raise config.error("hybrid_layer_ids", "does not name the hybrid layers of layers_block_type")
    return kinds


def shared_block(config: Config, hidden: int, uses: tuple[str, ...]) -> Block:
    """Return one shared transformer block with the adapters of its uses (numbered among all uses of all blocks)."""
    width, heads = config.optional_int("attention_hidden_size") or 2 * hidden, config.int("num_attention_heads")
    head_dim = config.optional_int("attention_head_dim") or config.divide(2 * hidden, heads, "attention heads")
    rank, bias = config.int("adapter_rank"), config.bool("add_bias_linear")
    attention = AdaptedAttention(
        width,
        heads,
        config.optional_int("num_key_value_heads") or heads,
        head_dim,
        out_features=hidden,
        dropout=config.rate("attention_dropout", 0.0),
        rotary="llama" if config.bool("use_mem_rope") else "",
        uses=uses,
        rank=rank if config.bool("use_shared_attention_adapter") else None,
    )
    ffn = config.optional_int("intermediate_size") or 4 * hidden
    names, activation = ("gate_up_proj", "down_proj"), config.str("hidden_act", "gelu")
    mlp = AdaptedMLP(hidden, ffn, bias, names, activation, uses=uses, rank=rank)
    norms = {"input_layernorm": Norm(width), "pre_ff_layernorm": Norm(hidden)}
    return Module({"self_attn": attention, "feed_forward": mlp, **norms})


def mixer(config: Config, hidden: int) -> Block:
    """Return the Mamba-2 mixer; its convolution always has a bias, whatever use_conv_bias says."""
    heads, bias = config.int("n_mamba_heads"), config.bool("add_bias_linear")
    return Mamba2(
        hidden,
        heads,
        config.divide(hidden * config.int("mamba_expand"), heads, "Mamba heads"),
        config.int("mamba_d_state"),
        config.int("mamba_ngroups"),
        config.int("mamba_d_conv"),
        in_bias=bias,
        out_bias=bias,
        chunk_size=config.int("chunk_size"),
    )
