"""Arcee AFMoE (Trinity): gated attention, four norms per layer, DeepSeek's mixture after the first dense layers.

Class defaults and structure: transformers 5.23, models/afmoe.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Embedding, Norm
from oomph.blocks.gated_attention import GatedAttention
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router, shared_expert
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm
from oomph.families.layer_types import FULL, SLIDING, full_after_sliding, listed, windows
from oomph.families.moe_layers import by_kind, dense_first, gqa, stacked
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "afmoe": {
        "vocab_size": 200192, "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 1408,
        "num_hidden_layers": 32, "num_dense_layers": 1, "num_attention_heads": 16, "head_dim": 128,
        "max_position_embeddings": 16384, "tie_word_embeddings": False, "num_experts": 64,
        "num_experts_per_tok": 6, "num_shared_experts": 2, "sliding_window": 1024, "global_attn_every_n_layers": 4,
    },
}  # fmt: skip

_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm")


def build(config: Config) -> Model:
    """Return the decoder; the gate of attention has one value per head and dimension."""
    hidden, layers = config.size("hidden_size"), config.depth("num_hidden_layers")
    types = listed(config, layers, allowed=(SLIDING, FULL))
    places, unplayed = windows(config, types or full_after_sliding(layers, config.int("global_attn_every_n_layers")))

    dense = GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu"))

    def layer(kind: tuple[str, int | None]) -> Module:
        mlp = mixture(config, hidden) if kind[0] == "sparse" else dense
        self_attn = attention(config, hidden, kind[1])
        return Module({"self_attn": self_attn, **{name: norm(hidden) for name in _NORMS}, "mlp": mlp})

    kinds = list(zip(dense_first(layers, config.int("num_dense_layers", low=0)), places, strict=True))
    if not config.int("num_shared_experts", low=0):
        unplayed = (*unplayed, "num_shared_experts=0")
    if None not in places or len(set(places)) < 2:
        unplayed = (*unplayed, "layers of one kind")
    model = causal_lm(config, by_kind(kinds, layer), norm(hidden), unplayed=unplayed)
    if not config.bool("mup_enabled"):
        return model
    embedding = Embedding(model.vocab_size, hidden, times=True)
    return replace(model, parts={**model.parts, "model.embed_tokens": embedding})


def norm(size: int) -> Norm:
    """Return a norm whose scale is applied in fp32."""
    return Norm(size, style="rms in fp32")


def attention(config: Config, hidden: int, window: int | None) -> GatedAttention:
    """Return grouped-query attention with a norm on each head's queries and keys, and its gate."""
    bias = config.bool("attention_bias")
    plain = gqa(config, hidden)
    scale = norm(plain.head_dim)
    return GatedAttention(
        hidden,
        plain.num_heads,
        plain.num_kv_heads,
        plain.head_dim,
        qkv_bias=bias,
        out_bias=bias,
        q_norm=scale,
        k_norm=scale,
        dropout=plain.dropout,
        sliding_window=window,
        rotary="llama" if window else "",
        gate_style="afmoe",
        gate_size=plain.num_heads * plain.head_dim,
    )


def mixture(config: Config, hidden: int) -> Block:
    """Return the experts, the shared ones fused into one MLP, and the frozen bias of the router."""
    experts, ffn = config.int("num_experts", high=MAX_EXPERTS), config.int("moe_intermediate_size")
    always, act = config.int("num_shared_experts", low=0), config.str("hidden_act", "silu")
    return MoE(
        Router(hidden, experts, linear="gate"),
        GatedMLP(hidden, ffn, role="expert"),
        experts,
        config.int("num_experts_per_tok"),
        router_name="router",
        extra={
            "shared_experts": shared_expert(GatedMLP(hidden, ffn * always, activation=act)) if always else None,
            "expert_bias": Tensor((experts,), "param", trains=False),
        },
        stacked=stacked(config, hidden, ffn, experts),
        experts_last=True,
        style="afmoe",
    )
