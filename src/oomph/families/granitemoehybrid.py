"""Granite 4: Mamba-2 or attention by layer, then an MLP all tokens share, beside it experts if there are any.

Class defaults and structure: transformers 5.23, models/granitemoehybrid; the router's name as the checkpoints
spell it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module, Part
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP, HalvedMLP
from oomph.blocks.moe import MoE, Router
from oomph.config import MAX_EXPERTS, Config
from oomph.families.bamba import WITHOUT_ATTENTION, attention, mamba2
from oomph.families.common import causal_lm, with_head
from oomph.families.layer_types import FULL, LINEAR, listed
from oomph.families.moe_layers import by_kind, stacked
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "granitemoehybrid": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "attention_bias": False, "num_local_experts": 8, "num_experts_per_tok": 2, "shared_intermediate_size": 1024,
        "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_head": "auto", "mamba_d_conv": 4,
        "mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False, "mamba_chunk_size": 256,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {"granitemoehybrid": {"layer_types": ("layers_block_type",)}}


def build(config: Config) -> Model:
    """Return the decoder; without a list of layers all are Mamba-2."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    kinds = listed(config, depth) or [LINEAR] * depth
    shared = HalvedMLP(
        hidden,
        config.int("shared_intermediate_size"),
        names=("input_linear", "output_linear"),
        activation=config.str("hidden_act", "silu"),
        kind="moe_shared_expert",
    )
    rotary = "llama" if config.get("position_embedding_type") == "rope" else ""
    rest: dict[str, Part] = {
        "input_layernorm": Norm(hidden),
        "post_attention_layernorm": Norm(hidden),
        "block_sparse_moe": experts(config, hidden),
        "shared_mlp": shared,
    }

    def layer(kind: str) -> Block:
        mixer = (
            {"mamba": mamba2(config, hidden)}
            if kind == LINEAR
            else {"self_attn": replace(attention(config, hidden), rotary=rotary, told_positions=False)}
        )
        return Module({**rest, **mixer})

    unplayed = () if FULL in kinds else (WITHOUT_ATTENTION,)
    return with_head(causal_lm(config, by_kind(kinds, layer), Norm(hidden), unplayed=unplayed), scaled=True)


def experts(config: Config, hidden: int) -> Block | None:
    """Return the routed experts, None in the models that have none (num_local_experts 0)."""
    number = config.int("num_local_experts", low=0, high=MAX_EXPERTS)
    if not number:
        return None
    ffn = config.int("intermediate_size")
    return MoE(
        Router(hidden, number, linear="layer", flat=True),
        GatedMLP(hidden, ffn, role="expert"),
        number,
        config.int("num_experts_per_tok"),
        router_name="router",
        stacked=stacked(config, hidden, ffn, number),
        style="granitemoe",
    )
