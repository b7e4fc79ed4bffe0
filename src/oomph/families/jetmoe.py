"""JetMoE: a mixture of MLP experts, and in attention a mixture of query and output maps around shared keys.

Class defaults and structure: transformers 5.23, models/jetmoe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.blocks.base import Block, Module, Stack
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.cached import Cached, TokenCache
from oomph.blocks.moe import Router
from oomph.config import MAX_EXPERTS, Config
from oomph.errors import ConfigError
from oomph.families.common import causal_lm
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "jetmoe": {
        "vocab_size": 32000, "hidden_size": 2048, "num_hidden_layers": 12, "num_key_value_heads": 16,
        "kv_channels": 128, "intermediate_size": 5632, "max_position_embeddings": 4096, "num_local_experts": 8,
        "num_experts_per_tok": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {"jetmoe": {"kv_channels": ("head_dim",)}}


@dataclass(frozen=True, eq=False)
class MixedAttention(Module):
    """Attention whose query and output maps are a mixture of experts; keys and values are there once for all."""

    kind: str = "attention"
    num_kv_heads: int = 1
    head_dim: int = 1

    @property
    def cached(self) -> tuple[Cached, ...]:
        """Keys and values of every key/value head."""
        return (TokenCache(self.num_kv_heads, self.head_dim, self.head_dim),)


def build(config: Config) -> Model:
    """Return the decoder, every layer the same."""
    hidden = config.size("hidden_size")
    keys = config.int("kv_channels") * config.int("num_key_value_heads")
    ffn = config.int("intermediate_size")
    attention = MixedAttention(
        {"experts": parallel_experts(config, hidden, keys, keys), "kv_proj": Linear(hidden, 2 * keys)},
        num_kv_heads=config.int("num_key_value_heads"),
        head_dim=config.int("kv_channels"),
    )
    layer = Module(
        {
            "mlp": parallel_experts(config, hidden, 2 * ffn, ffn, kind="moe_experts"),
            "input_layernorm": Norm(hidden),
            "post_attention_layernorm": Norm(hidden),
            "self_attention": attention,
        }
    )
    return causal_lm(config, (layer,) * config.depth("num_hidden_layers"), Norm(hidden))


def parallel_experts(config: Config, hidden: int, inner: int, back: int, kind: str = "") -> Block:
    """Return E pairs of maps, H to `inner` and `back` to H, one output bias for all, and the router."""
    experts, top_k = config.int("num_local_experts", high=MAX_EXPERTS), config.int("num_experts_per_tok")
    if top_k > experts:
        raise ConfigError(
            f"A token cannot use {top_k} of {experts} experts.", "Check num_experts_per_tok and num_local_experts."
        )

    def stacked(into: int, out: int) -> Stack:
        expert = Module({"weight": Tensor((out, into), "expert")})
        return Stack((expert,) * experts, top_k, kind=kind)

    return Module(
        {
            "bias": Tensor((hidden,), "bias"),
            "input_linear": stacked(hidden, inner),
            "output_linear": stacked(back, hidden),
            "router": Router(hidden, experts, linear="layer"),
        },
        kind=kind and "mlp",
    )
