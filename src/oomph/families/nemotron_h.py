"""Nemotron-H and Nemotron 3: one mixer per layer, Mamba-2 (M), attention (*), MLP (-) or experts (E).

Nemotron-3 Super and Ultra route in a smaller latent space and hold multi-token-prediction layers. Class defaults
and structure: transformers 5.23, models/nemotron_h (names as the checkpoints spell them); the MTP layers: vLLM,
model_executor/models/nemotron_h_mtp.py (commit 01ca277), and the published totals.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module, Part, Stack
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.mamba import Mamba2
from oomph.blocks.mlp import MLP
from oomph.blocks.moe import MoE, Router, StackedExperts, shared_expert
from oomph.config import MAX_DEPTH, MAX_EXPERTS, Config
from oomph.errors import ConfigError
from oomph.families.common import causal_lm
from oomph.families.layer_types import FULL, LINEAR, checked
from oomph.families.moe_layers import by_kind
from oomph.families.mtp import predictors, with_mtp
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "nemotron_h": {
        "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 21504, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096, "mlp_bias": False,
        "ssm_state_size": 128, "mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8, "conv_kernel": 4,
        "use_conv_bias": True, "use_bias": False, "n_routed_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 7688, "moe_shared_expert_intermediate_size": 7688, "num_nextn_predict_layers": 0,
        "chunk_size": 128,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "nemotron_h": {
        "layers_block_type": ("layer_types",), "n_routed_experts": ("num_local_experts",),
        "n_groups": ("mamba_n_groups",), "conv_kernel": ("mamba_d_conv",), "use_conv_bias": ("mamba_conv_bias",),
        "chunk_size": ("mamba_chunk_size",),
    },
}  # fmt: skip

ACTIVATION = "relu2"  # of the configuration class
EXPERTS, PLAIN = "moe", "mlp"
LETTERS = {"M": LINEAR, "*": FULL, "-": PLAIN, "E": EXPERTS}
MTP_KINDS = [FULL, EXPERTS]  # the class's default for the sub-layers of one MTP layer


def build(config: Config) -> Model:
    """Return the decoder; num_hidden_layers is ignored, as in the class: the list of kinds is the depth.

    The class never ties the head.
    """
    hidden = config.size("hidden_size")
    kinds = layer_kinds(config, "layers_block_type", "hybrid_override_pattern")
    if not kinds:
        raise ConfigError(
            "layers_block_type (or hybrid_override_pattern) is missing.",
            f"Add layers_block_type to {config.where}: it says which layer is what.",
        )
    mtp_kinds = layer_kinds(config, "mtp_layers_block_type", "mtp_hybrid_override_pattern") or MTP_KINDS
    mtp_layers = predictors(config)
    used = dict.fromkeys(kinds + (mtp_kinds if mtp_layers else []))
    mixers = {kind: MIXERS[kind](config, hidden) for kind in used}
    layers = {kind: Module({"norm": norm(hidden), "mixer": mixers[kind]}) for kind in kinds}
    model = causal_lm(
        config,
        [layers[kind] for kind in kinds],
        norm(hidden),
        embed="backbone.embeddings",
        stack="backbone.layers",
        norm="backbone.norm_f",
        tied=False,
    )
    if not mtp_layers:
        return model
    if len(mtp_kinds) * mtp_layers > MAX_DEPTH:
        raise config.error("num_nextn_predict_layers", f"makes more than {MAX_DEPTH} layers")
    return with_mtp(model, {"mtp": mtp(hidden, mixers, mtp_kinds, mtp_layers)})


def norm(size: int) -> Norm:
    """Return the norm, which is scaled in fp32."""
    return Norm(size, style="rms all fp32")


def layer_kinds(config: Config, key: str, pattern_key: str) -> list[str]:
    """Return the kinds of layers as a list or a pattern of letters gives them, empty if neither does."""
    kinds = config.list(key, MAX_DEPTH)
    if kinds is not None:
        return checked(config, key, kinds, tuple(LETTERS.values()))
    pattern = config.str(pattern_key)
    if len(pattern) > MAX_DEPTH or set(pattern) - set(LETTERS):
        raise config.error(pattern_key, f"is not a pattern of up to {MAX_DEPTH} of the letters {' '.join(LETTERS)}")
    return [LETTERS[letter] for letter in pattern]


def mamba(config: Config, hidden: int) -> Block:
    """Return the Mamba-2 mixer: its inner width is heads times head dim, not a multiple of hidden."""
    bias = config.bool("use_bias")
    return Mamba2(
        hidden,
        config.int("mamba_num_heads"),
        config.int("mamba_head_dim"),
        config.int("ssm_state_size"),
        config.int("n_groups"),
        config.int("conv_kernel"),
        in_bias=bias,
        out_bias=bias,
        conv_bias=config.bool("use_conv_bias"),
        chunk_size=config.int("chunk_size"),
        activation=config.str("mamba_hidden_act", "silu"),
    )


def attention(config: Config, hidden: int) -> Block:
    """Return grouped-query attention without biases (attention_bias is not read by the class)."""
    heads = config.int("num_attention_heads")
    return Attention(
        hidden, heads, config.optional_int("num_key_value_heads") or heads, config.int("head_dim"),
        rotary="", dropout=config.rate("attention_dropout", 0.0),
    )  # fmt: skip


def mlp(config: Config, hidden: int) -> Block:
    """Return the plain squared-ReLU MLP."""
    return plain(config, hidden, config.int("intermediate_size"))


def plain(config: Config, hidden: int, ffn: int) -> MLP:
    """Return an MLP without a gate."""
    return MLP(hidden, ffn, config.bool("mlp_bias"), activation=config.str("mlp_hidden_act", ACTIVATION))


def experts(config: Config, hidden: int) -> Block:
    """Return the mixture: two-matrix experts in the latent space if there is one, a shared MLP in the full one."""
    number, bias = config.int("n_routed_experts", high=MAX_EXPERTS), config.bool("mlp_bias")
    latent = config.optional_int("moe_latent_size")
    size, ffn, act = latent or hidden, config.int("moe_intermediate_size"), config.str("mlp_hidden_act", ACTIVATION)
    extra: dict[str, Part] = {
        "shared_experts": shared_expert(plain(config, hidden, config.int("moe_shared_expert_intermediate_size")))
    }
    if latent:
        extra["fc1_latent_proj"] = Linear(hidden, latent, bias)
        extra["fc2_latent_proj"] = Linear(latent, hidden, bias)
    router = Router(hidden, number, correction="e_score_correction_bias")
    return MoE(
        router,
        MLP(size, ffn, role="expert"),
        number,
        config.int("num_experts_per_tok"),
        extra=extra,
        stacked=StackedExperts(size, ffn, number, act, names=("up_proj", "down_proj"), gated=False),
        experts_first=True,
        style="nemotron_h",
        normalised=config.bool("norm_topk_prob", default=True),
        groups=(config.optional_int("n_group") or 1, config.optional_int("topk_group") or 1),
    )


MIXERS = {LINEAR: mamba, FULL: attention, PLAIN: mlp, EXPERTS: experts}


def mtp(hidden: int, mixers: Mapping[str, Block], kinds: list[str], layers: int) -> Block:
    """Return the MTP layers: each joins hidden state and next embedding, then runs its sub-layers and a last norm."""

    def step(place: tuple[str, bool, bool]) -> Block:
        kind, first, last = place
        start = {"enorm": Norm(hidden), "hnorm": Norm(hidden), "eh_proj": Linear(2 * hidden, hidden)}
        return Module(
            {
                **(start if first else {}),
                "norm": Norm(hidden),
                "mixer": mixers[kind],
                "final_layernorm": Norm(hidden) if last else None,
            }
        )

    steps = by_kind([(kind, i == 0, i == len(kinds) - 1) for i, kind in enumerate(kinds)], step)
    return Module({"layers": Stack(steps * layers)}, kind="mtp")
