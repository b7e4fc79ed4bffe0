"""Databricks DBRX: fused qkv, LayerNorms without bias, experts stored as tall matrices cut per expert.

Class defaults and structure: transformers 5.23, models/dbrx.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module
from oomph.blocks.basic import Norm
from oomph.blocks.dbrx import TallExperts, TallMoE
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import Router
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "dbrx": {
        "vocab_size": 32000, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16,
        "max_position_embeddings": 2048, "tie_word_embeddings": False,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "dbrx": {
        "hidden_size": ("d_model",), "num_hidden_layers": ("n_layers",), "num_attention_heads": ("n_heads",),
        "max_position_embeddings": ("max_seq_len",),
    },
}  # fmt: skip

# Class defaults of the two nested configs (DbrxAttentionConfig, DbrxFFNConfig).
_ATTENTION = {"kv_n_heads": 1, "attn_pdrop": 0.0, "clip_qkv": None}
_FFN = {"ffn_hidden_size": 3584, "moe_num_experts": 4, "moe_top_k": 1, "moe_normalize_expert_weights": 1.0}
STYLE = "layer"  # of norms, which have no bias


def build(config: Config) -> Model:
    """Return the decoder, every layer the same."""
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    told = config.sub("attn_config", _ATTENTION)
    ffn = config.sub("ffn_config", _FFN)
    experts, width = ffn.int("moe_num_experts", high=MAX_EXPERTS), ffn.int("ffn_hidden_size")
    attention = Attention(
        hidden, heads, told.int("kv_n_heads"), config.divide(hidden, heads, "attention heads"), qkv=("Wqkv",),
        out="out_proj", dropout=told.rate("attn_pdrop", 0.0), clipped=True,
    )  # fmt: skip
    norms = {name: Norm(hidden, style=STYLE) for name in ("norm_1", "norm_2")}
    activation = str(ffn.section("ffn_act_fn").get("name", "silu"))[:40]
    layer = Module(
        {
            "norm_attn_norm": Module({"norm_1": norms["norm_1"], "attn": attention, "norm_2": norms["norm_2"]}),
            "ffn": TallMoE(
                Router(hidden, experts, linear="layer"),
                GatedMLP(hidden, width, names=("w1", "v1", "w2"), role="expert"),
                experts,
                ffn.int("moe_top_k"),
                shaken=ffn.raw.get("moe_jitter_eps") is not None,  # by 0 too
                router_name="router",
                experts_name="experts.mlp",
                normalised=ffn.raw.get("moe_normalize_expert_weights", 1.0) is not None,
                tall=TallExperts(hidden, width, experts, activation),
            ),
        }
    )
    return causal_lm(
        config,
        (layer,) * config.depth("num_hidden_layers"),
        Norm(hidden, style=STYLE),
        embed="transformer.wte",
        stack="transformer.blocks",
        norm="transformer.norm_f",
        unplayed=_unplayed(config, told, ffn),
    )


def _unplayed(config: Config, told: Config, ffn: Config) -> tuple[str, ...]:
    """Return what a config asks for and no program plays: the class fails on queries that nothing bounds."""
    return (
        *(("queries without clip_qkv",) if told.raw.get("clip_qkv") is None else ()),
        *(("resid_pdrop",) if config.raw.get("resid_pdrop") else ()),
        *(("a norm of weights other than their sum",) if ffn.raw.get("moe_normalize_expert_weights", 1) not in (1, None)
          else ()),
    )  # fmt: skip
