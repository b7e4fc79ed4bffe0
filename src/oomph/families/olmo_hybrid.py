"""OLMo-Hybrid: gated delta nets (pre-norm), with OLMo-2's attention (post-norm) in every fourth layer.

Class defaults and structure: transformers 5.23, models/olmo_hybrid; names as the checkpoints spell them.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Norm
from oomph.blocks.linear_attention import GatedDeltaNet
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.families.common import causal_lm, head_dim, rope_parameters
from oomph.families.layer_types import FULL, LINEAR, full_every, listed
from oomph.families.moe_layers import by_kind
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "olmo_hybrid": {
        "vocab_size": 100352, "hidden_size": 3840, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 30, "max_position_embeddings": 65536, "tie_word_embeddings": False,
        "attention_bias": False, "linear_conv_kernel_dim": 4,
    },
}  # fmt: skip

FULL_ATTENTION_INTERVAL = 4  # the class's default where the config names no kinds of layers
KEY_SHARE, KEY_SHARE_OF = 3, 4  # the delta net's keys have 3/4 of the hidden size together, the values twice that
MAPS = (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v"), ("a_proj", "a"), ("b_proj", "b"), ("g_proj", "z"))


def build(config: Config) -> Model:
    """Return the decoder; the two kinds of layer have their norms in different places."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    mlp = GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu"))
    kinds = listed(config, depth) or [*full_every(depth, FULL_ATTENTION_INTERVAL)]
    if FULL not in kinds and not config.has("layer_types"):
        kinds[-1] = FULL

    def layer(kind: str) -> Block:
        if kind == LINEAR:
            norms = {"attention_layer_norm": norm(hidden), "feedforward_layer_norm": norm(hidden)}
            return Module({"mlp": mlp, **norms, "linear_attn": delta_net(config, hidden)})
        norms = {"post_attention_layernorm": norm(hidden), "post_feedforward_layernorm": norm(hidden)}
        return Module({"self_attn": attention(config, hidden), "mlp": mlp, **norms})

    unplayed = () if FULL in kinds else ("a decoder without attention",)
    return causal_lm(config, by_kind(kinds, layer), norm(hidden), unplayed=unplayed)


def norm(size: int) -> Norm:
    """Return OLMo 2's norm."""
    return Norm(size, style="rms in fp32")


def delta_net(config: Config, hidden: int) -> Block:
    """Return the gated delta net; absent sizes follow from the attention heads and the hidden size."""
    heads = config.int("num_attention_heads")
    keys = config.optional_int("linear_num_key_heads") or heads
    key_dim = config.optional_int("linear_key_head_dim") or hidden * KEY_SHARE // (KEY_SHARE_OF * keys)
    if not key_dim:
        raise config.error("linear_key_head_dim", f"is absent, and {keys} key heads leave none of hidden_size {hidden}")
    return GatedDeltaNet(
        hidden,
        keys,
        config.optional_int("linear_num_value_heads") or heads,
        key_dim,
        config.optional_int("linear_value_head_dim") or 2 * key_dim,
        config.int("linear_conv_kernel_dim"),
        maps=MAPS,
        norm="o_norm",
        out="o_proj",
        activation=config.str("hidden_act", "silu"),
        decay_dtype="fp32",
        negative=config.bool("linear_allow_neg_eigval", default=True),
        order=("maps", "out", "conv", "norm"),
    )


def attention(config: Config, hidden: int) -> Block:
    """Return attention with norms over all heads together."""
    heads, bias = config.int("num_attention_heads"), config.bool("attention_bias")
    kv_heads = config.optional_int("num_key_value_heads") or heads
    size = head_dim(config, hidden, heads)
    return Attention(
        hidden, heads, kv_heads, size, qkv_bias=bias, out_bias=bias,
        q_norm=norm(heads * size), k_norm=norm(kv_heads * size), norm_place="whole",
        rotary="olmo" if turns(config) else "", dropout=config.rate("attention_dropout", 0.0),
    )  # fmt: skip


def turns(config: Config) -> bool:
    """Tell whether there is a rotary embedding: released models say that there is none, rope_theta being null."""
    rope = rope_parameters(config)
    theta = rope["rope_theta"] if "rope_theta" in rope else config.raw.get("rope_theta", True)
    return theta is not None
