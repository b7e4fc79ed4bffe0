"""Llama-4's text model: every n-th layer a mixture with one shared expert, the others a wider ordinary MLP.

Class defaults and structure: transformers 5.23, models/llama4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module
from oomph.blocks.basic import BareNorm, Norm
from oomph.blocks.llama4_attention import Llama4Attention
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router, StackedExperts, shared_expert
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm
from oomph.families.layer_types import FULL, listed
from oomph.families.moe_layers import by_kind, gqa
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "llama4_text": {
        "vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
        "max_position_embeddings": 131072, "tie_word_embeddings": False, "num_experts_per_tok": 1,
        "num_local_experts": 16, "interleave_moe_layer_step": 1,
    },
}  # fmt: skip
CHUNKED = "chunked_attention"
CHUNK = 8192  # tokens, the class default of attention_chunk_size
NO_ROPE_INTERVAL = 4
STYLE = "rms in a line"


def build(config: Config) -> Model:
    """Return the decoder; moe_layers, if listed, goes before interleave_moe_layer_step."""
    hidden, layers = config.size("hidden_size"), config.depth("num_hidden_layers")
    norm, activation = Norm(hidden, style=STYLE), config.str("hidden_act", "silu")
    attentions, unplayed = attention_layers(config, hidden, layers)

    def layer(kind: tuple[bool, Llama4Attention]) -> Module:
        sparse, attention = kind
        dense = GatedMLP(hidden, config.int("intermediate_size_mlp"), activation=activation)
        return Module(
            {
                "self_attn": attention,
                "feed_forward": mixture(config, hidden) if sparse else dense,
                "input_layernorm": norm,
                "post_attention_layernorm": norm,
            }
        )

    kinds = list(zip(sparse_layers(config, layers), attentions, strict=True))
    return causal_lm(config, by_kind(kinds, layer), norm, unplayed=unplayed)


def attention_layers(config: Config, hidden: int, layers: int) -> tuple[list[Llama4Attention], tuple[str, ...]]:
    """Return the attention of every layer, and what of them cannot be played: most see a chunk and turn heads."""
    bias = config.bool("attention_bias")
    plain = gqa(config, hidden, bias=bias, out_bias=bias)
    interval = config.optional_int("no_rope_layer_interval") or NO_ROPE_INTERVAL
    turned = config.ints("no_rope_layers") or [int((index + 1) % interval != 0) for index in range(layers)]
    if len(turned) < layers:
        raise config.error("no_rope_layers", f"has {len(turned)} entries for {layers} layers")
    kinds = listed(config, layers, allowed=(CHUNKED, FULL)) or [CHUNKED if one else FULL for one in turned]
    given = config.raw.get("attention_chunk_size", CHUNK)
    chunk = None if given is None else config.optional_int("attention_chunk_size") or CHUNK
    unplayed = () if chunk is not None and CHUNKED in kinds else ("layers without chunks",)
    base = Llama4Attention(
        hidden, plain.num_heads, plain.num_kv_heads, plain.head_dim, qkv_bias=bias, out_bias=bias,
        dropout=plain.dropout, tuned=bool(config.raw.get("attn_temperature_tuning", True)),
    )  # fmt: skip
    norm = BareNorm("l2") if config.raw.get("use_qk_norm", True) else None
    return [
        replace(base, rotary="complex", q_norm=norm, sliding_window=chunk if kind == CHUNKED else None)
        if turns
        else replace(base, rotary="", sliding_window=chunk if kind == CHUNKED else None)
        for turns, kind in zip(turned[:layers], kinds, strict=False)
    ], unplayed


def sparse_layers(config: Config, layers: int) -> list[bool]:
    """Return which layers are mixtures."""
    listed = config.ints("moe_layers")
    if listed is not None:
        named = set(listed)
        return [i in named for i in range(layers)]
    step = config.int("interleave_moe_layer_step")
    return [not (i + 1) % step for i in range(layers)]


def mixture(config: Config, hidden: int) -> Block:
    """Return the experts, gate and up fused, and the shared one of the same width."""
    ffn, experts = config.int("intermediate_size"), config.int("num_local_experts", high=MAX_EXPERTS)
    activation = config.str("hidden_act", "silu")
    return MoE(
        Router(hidden, experts),
        GatedMLP(hidden, ffn, names=("gate_up_proj", "down_proj"), role="expert"),
        experts,
        config.int("num_experts_per_tok"),
        router_name="router",
        extra={"shared_expert": shared_expert(GatedMLP(hidden, ffn, activation=activation))},
        stacked=StackedExperts(hidden, ffn, experts, activation, transposed=True),
        experts_first=True,
        style="llama4",
    )
