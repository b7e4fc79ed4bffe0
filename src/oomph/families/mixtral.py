"""Mixtral and its kin (Phi-3.5-MoE, MiniMax-M2, OLMoE, FlexOlmo): a mixture of experts in every layer.

Class defaults and structure: transformers 5.23, models/mixtral and the others by name; names as the checkpoints
spell them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module, Part
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import LONGROPE, causal_lm, rope_type, rotary_dim
from oomph.families.moe_layers import gqa, stacked
from oomph.families.mtp import predictors
from oomph.families.olmo import STYLE as OLMO_NORM
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "mixtral": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "num_local_experts": 8, "num_experts_per_tok": 2,
    },
    "phimoe": {
        "vocab_size": 32064, "hidden_size": 4096, "intermediate_size": 6400, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "num_local_experts": 16, "num_experts_per_tok": 2,
    },
    "minimax_m2": {
        "vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 1536, "num_hidden_layers": 62,
        "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 196608,
        "tie_word_embeddings": False, "num_local_experts": 256, "num_experts_per_tok": 8,
    },
    "olmoe": {
        "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 2048, "num_hidden_layers": 16,
        "num_attention_heads": 16, "max_position_embeddings": 4096, "tie_word_embeddings": False,
        "num_local_experts": 64, "num_experts_per_tok": 8,
    },
    "flex_olmo": {
        "vocab_size": 100352, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 4096, "tie_word_embeddings": False,
        "num_local_experts": 7, "num_experts_per_tok": 5,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    name: {"num_local_experts": ("num_experts",)} for name in ("mixtral", "minimax_m2", "olmoe", "flex_olmo")
}

STYLES = {"flex_olmo": "olmoe"}  # of others their own
_OLMO = frozenset({"olmoe", "flex_olmo"})


def build(config: Config) -> Model:
    """Return the decoder, every layer the same."""
    hidden, kind = config.size("hidden_size"), config.model_type
    norm = Norm(hidden, bias=kind == "phimoe", style=OLMO_NORM if kind == "flex_olmo" else "")
    names = ("input_layernorm", "post_attention_layernorm")
    if kind == "flex_olmo":
        names = ("post_attention_layernorm", "post_feedforward_layernorm")
    layer = Module(
        {
            "self_attn": attention(config, hidden),
            "mlp" if kind in _OLMO else "block_sparse_moe": mixture(config, hidden),
            **dict.fromkeys(names, norm),
        }
    )
    head_bias = kind == "phimoe" and config.bool("lm_head_bias")
    model = causal_lm(config, (layer,) * config.depth("num_hidden_layers"), norm, head_bias=head_bias)
    if kind == "olmoe" and config.get("clip_qkv") is not None:
        return replace(model, unplayed=(*model.unplayed, "clip_qkv"))
    return replace(model, notes=unpublished_predictors(config)) if kind == "minimax_m2" else model


def attention(config: Config, hidden: int) -> Attention:
    """Return the attention: MiniMax-M2, OLMoE and FlexOlmo normalise all heads' queries and keys at once."""
    kind = config.model_type
    bias = kind in ("phimoe", *_OLMO) and config.bool("attention_bias")
    attn = gqa(config, hidden, bias=bias, out_bias=bias)
    if kind in ("mixtral", "phimoe"):
        longrope = kind == "phimoe" and rope_type(config) == LONGROPE
        return replace(attn, sliding_window=config.optional_int("sliding_window"), longrope=longrope)
    if kind not in ("minimax_m2", *_OLMO):
        return attn
    # OLMoE's class measures its norms by hidden / heads even where head_dim says otherwise.
    dim = config.divide(hidden, attn.num_heads, "attention heads") if kind == "olmoe" else attn.head_dim
    style = OLMO_NORM if kind == "flex_olmo" else ""
    norms = Norm(attn.num_heads * dim, style=style), Norm(attn.num_kv_heads * dim, style=style)
    normed = replace(attn, q_norm=norms[0], k_norm=norms[1], norm_place="whole")
    if kind == "minimax_m2":
        turned = config.optional_int("rotary_dim") or rotary_dim(config, attn.head_dim, 1.0)
        return replace(normed, rotary="partial", rotary_dim=turned)
    return replace(normed, rotary="olmo") if kind == "flex_olmo" else normed


def mixture(config: Config, hidden: int) -> MoE:
    """Return router and experts; MiniMax-M2 keeps its correction bias beside the router."""
    experts = config.int("num_local_experts", high=MAX_EXPERTS)
    names = ("gate_proj", "up_proj", "down_proj") if config.model_type in _OLMO else ("w1", "w3", "w2")
    beside: dict[str, Part] = {}
    if config.model_type == "minimax_m2":
        beside["e_score_correction_bias"] = Tensor((experts,), "buffer")
    return MoE(
        Router(hidden, experts),
        GatedMLP(hidden, config.int("intermediate_size"), names=names, role="expert"),
        experts,
        config.int("num_experts_per_tok"),
        extra=beside,
        shaken=config.model_type == "phimoe" and bool(config.rate("input_jitter_noise", 0.0)),
        stacked=stacked(config, hidden, config.int("intermediate_size"), experts),
        style=STYLES.get(config.model_type, config.model_type),
        normalised=config.model_type in ("mixtral", "minimax_m2") or config.bool("norm_topk_prob"),
    )


def unpublished_predictors(config: Config) -> tuple[str, ...]:
    """Return the note on prediction layers that MiniMax configs announce and MiniMax checkpoints do not hold."""
    times = predictors(config, "num_mtp_modules")
    if not times:
        return ()
    return (f"The config announces {times} multi-token-prediction modules; no published checkpoint holds them.",)
