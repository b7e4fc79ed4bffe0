"""MiniMax-M3's text model: block-sparse attention with an indexer, experts and a shared MLP after dense layers.

Class defaults and structure: transformers 5.23, models/minimax_m3_vl (MiniMaxM3VLForCausalLM); names of the
mixture and the indexer as the checkpoint spells them. `minimax_m3` is the same text model under the name of a
text-only config: with the vision tower of minimax_m3_vl it adds up to the published total.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Norm
from oomph.blocks.indexed_attention import IndexedAttention
from oomph.blocks.mlp import GatedMLP, SwigluOaiMLP
from oomph.blocks.moe import MoE, Router, shared_expert
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm, rotary_dim
from oomph.families.gemma import STYLE as PLUS_ONE
from oomph.families.mixtral import unpublished_predictors
from oomph.families.moe_layers import by_kind, gqa, mlp_kinds, one_of, stacked
from oomph.model import Model
from oomph.tensor import Tensor

_TEXT: dict[str, Any] = {
    "vocab_size": 200064, "hidden_size": 6144, "intermediate_size": 3072, "dense_intermediate_size": 12288,
    "shared_intermediate_size": 3072, "num_hidden_layers": 60, "num_attention_heads": 64,
    "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 524288, "tie_word_embeddings": False,
    "num_experts_per_tok": 4, "num_local_experts": 128, "index_n_heads": 4, "index_head_dim": 128,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {"minimax_m3_vl_text": _TEXT, "minimax_m3": _TEXT}
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {name: {"num_local_experts": ("num_experts",)} for name in TYPES}

_ATTENTION = ("minimax_m3_sparse", "full_attention")
_BLOCK_SIZE, _TOP_K = 128, 16  # class defaults
_FUSED = ("gate_up_proj", "down_proj")
_VISION_NOTE = "The published MiniMax-M3 also holds a vision tower and projector, which this config does not describe."


def build(config: Config) -> Model:
    """Return the decoder; layer_types and mlp_layer_types, or the published config's older lists, say what is what."""
    hidden, layers = config.size("hidden_size"), config.depth("num_hidden_layers")
    kinds = list(zip(attention_kinds(config, layers), sparse_layers(config, layers), strict=True))

    def layer(kind: tuple[str, str]) -> Module:
        self_attn = attention(config, hidden, indexed=kind[0] == _ATTENTION[0])
        norms = {name: Norm(hidden, style=PLUS_ONE) for name in ("input_layernorm", "post_attention_layernorm")}
        if kind[1] == "sparse":
            return Module({"self_attn": self_attn, "block_sparse_moe": mixture(config, hidden), **norms})
        dense = SwigluOaiMLP(hidden, config.int("dense_intermediate_size"), names=_FUSED)
        return Module({"self_attn": self_attn, "mlp": dense, **norms})

    model = causal_lm(config, by_kind(kinds, layer), Norm(hidden, style=PLUS_ONE))
    notes = unpublished_predictors(config)
    return replace(model, notes=(*notes, _VISION_NOTE) if config.model_type == "minimax_m3" else notes)


def attention_kinds(config: Config, layers: int) -> list[str]:
    """Return which layers have an indexer; by default none."""
    listed = config.layer_list("layer_types", layers)
    if listed is not None:
        return one_of(config, "layer_types", listed, _ATTENTION)
    pattern = config.sub("sparse_attention_config").layer_list("sparse_attention_freq", layers)
    return [_ATTENTION[0] if entry else _ATTENTION[1] for entry in pattern or [0] * layers]


def sparse_layers(config: Config, layers: int) -> list[str]:
    """Return "dense" or "sparse" per layer; by default all are mixtures."""
    pattern = config.layer_list("moe_layer_freq", layers)
    if pattern is not None and config.get("mlp_layer_types") is None:
        return ["sparse" if entry else "dense" for entry in pattern]
    return mlp_kinds(config, layers, 0)


def attention(config: Config, hidden: int, indexed: bool) -> Attention:
    """Return one layer's attention; the sizes of its indexer may stand in the older nested section."""
    plain = gqa(config, hidden)
    norm = Norm(plain.head_dim, style=PLUS_ONE)
    turned = rotary_dim(config, plain.head_dim, 1.0)
    plain = replace(plain, q_norm=norm, k_norm=norm, rotary="partial", rotary_dim=turned, out_apart=True)
    if not indexed:
        return plain
    nested = config.sub("sparse_attention_config")
    return IndexedAttention(
        hidden,
        plain.num_heads,
        plain.num_kv_heads,
        plain.head_dim,
        q_norm=plain.q_norm,
        k_norm=plain.k_norm,
        index_heads=nested.optional_int("sparse_num_index_heads") or config.int("index_n_heads"),
        index_head_dim=nested.optional_int("sparse_index_dim") or config.int("index_head_dim"),
        block_size=nested.optional_int("sparse_block_size") or config.optional_int("index_block_size") or _BLOCK_SIZE,
        top_k=nested.optional_int("sparse_topk_blocks") or config.optional_int("index_topk_blocks") or _TOP_K,
        local_blocks=local_blocks(config),
        norm=PLUS_ONE,
        rotary="partial",
        rotary_dim=turned,
        dropout=plain.dropout,
    )


def local_blocks(config: Config) -> int:
    """Return how many blocks before it a query sees in any case."""
    nested = config.sub("sparse_attention_config").optional_int("sparse_local_block", low=0)
    given = config.optional_int("index_local_blocks", low=0) if nested is None else nested
    return 1 if given is None else given


def mixture(config: Config, hidden: int) -> Block:
    """Return the experts, the shared MLP and the router's correction bias beside them."""
    experts = config.int("num_local_experts", high=MAX_EXPERTS)
    ffn = config.int("intermediate_size")
    shared = SwigluOaiMLP(hidden, config.int("shared_intermediate_size"), names=_FUSED)
    return MoE(
        Router(hidden, experts),
        GatedMLP(hidden, ffn, names=("w1", "w3", "w2"), role="expert"),
        experts,
        config.int("num_experts_per_tok"),
        extra={
            "e_score_correction_bias": Tensor((experts,), "buffer"),
            "shared_experts": shared_expert(shared),
        },
        stacked=replace(stacked(config, hidden, ffn, experts), activation="swigluoai"),
        style="minimax_m3",
        built_router=Router(hidden, experts, correction="e_score_correction_bias", correction_like_weights=True),
        beside_router=("e_score_correction_bias",),
    )
