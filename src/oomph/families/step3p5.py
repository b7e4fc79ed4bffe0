"""StepFun Step-3.5/3.7 Flash, the text model: gated attention with more heads in sliding layers, experts after
dense layers, and prediction layers that keep their own copy of the head.

Class defaults and structure: transformers 5.23, models/step3p7 (Step3p7TextConfig, whose model_type is step3p5);
names and prediction layers as the published checkpoints store them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from oomph.blocks.base import Module, Part
from oomph.blocks.basic import Norm
from oomph.blocks.gated_attention import GatedAttention
from oomph.blocks.mlp import BoundedMLP, GatedMLP
from oomph.blocks.moe import MoE, RegroupedLayer, Router, shared_expert
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm, head_dim, rope_parameters, turned_of_kind
from oomph.families.gemma import STYLE as PLUS_ONE
from oomph.families.moe_layers import by_kind, one_of, stacked
from oomph.families.mtp import next_token_layer, predictors, with_mtp
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "step3p5": {
        "vocab_size": 128815, "hidden_size": 4096, "intermediate_size": 11264, "num_hidden_layers": 45,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 128000,
        "tie_word_embeddings": False, "num_experts_per_tok": 8, "moe_intermediate_size": 1280,
        "n_routed_experts": 288, "share_expert_dim": 1280,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "step3p5": {
        "num_key_value_heads": ("num_attention_groups",), "n_routed_experts": ("moe_num_experts",),
        "num_experts_per_tok": ("moe_top_k",), "share_expert_dim": ("share_expert_dims",),
        "num_nextn_predict_layers": ("num_mtp_layers",),
    },
}  # fmt: skip

FULL, SLIDING = "full_attention", "sliding_attention"
_FIRST_SPARSE = 3  # the class's own default when no list says which layers are mixtures


def build(config: Config) -> Model:
    """Return the decoder; lists of layers may go on behind the last one for the prediction layers."""
    hidden, layers = config.size("hidden_size"), config.depth("num_hidden_layers")
    times = predictors(config)
    attention = attention_kinds(config, layers, times)
    kinds = list(zip(attention, sparse_layers(config, layers, times), strict=True))

    def layer(kind: tuple[str, str]) -> Module:
        norms = {name: Norm(hidden, style=PLUS_ONE) for name in ("input_layernorm", "post_attention_layernorm")}
        turned = rotary_dim(config, attention, kind[0])
        attends = {"self_attn": gated(config, hidden, kind[0], turned)}
        if kind[1] == "dense":
            return Module({**attends, "mlp": dense(config, hidden, config.int("intermediate_size")), **norms})
        mlp, named = mixture(config, hidden)
        return RegroupedLayer({**attends, **named, **norms}, built=Module({**attends, "mlp": mlp, **norms}))

    every = by_kind(kinds, layer)
    model = causal_lm(
        config, every[:layers], Norm(hidden, style=PLUS_ONE), unplayed=unplayed(config, attention[:layers])
    )
    parts: dict[str, Part] = {}
    for i, block in enumerate(every[layers:], layers):
        parts[f"model.layers.{i}"] = next_token_layer(block, hidden, head=model.vocab_size)
    return with_mtp(model, parts)


def padded(config: Config, key: str, layers: int, times: int) -> list[Any] | None:
    """Return a list with one entry per layer, or per layer and prediction layer."""
    found = config.list(key)
    if found is not None and len(found) not in (layers, layers + times):
        raise config.error(key, f"has {len(found)} entries for {layers} layers and {times} prediction layers")
    return found


def attention_kinds(config: Config, layers: int, times: int) -> list[str]:
    """Return full or sliding attention per layer and prediction layer; by default all are full."""
    listed = padded(config, "layer_types", layers, times)
    listed = [FULL] * layers if listed is None else one_of(config, "layer_types", listed, (FULL, SLIDING))
    return listed + [FULL] * (layers + times - len(listed))


def sparse_layers(config: Config, layers: int, times: int) -> list[str]:
    """Return "dense" or "sparse" per layer and prediction layer: by list, by moe_layers_enum, or from the fourth on."""
    listed = padded(config, "mlp_layer_types", layers, times)
    if listed is not None:
        listed = one_of(config, "mlp_layer_types", listed, ("dense", "sparse"))
        return listed + ["dense"] * (layers + times - len(listed))
    named = config.get("moe_layers_enum")
    if isinstance(named, str):
        words = [word.strip() for word in named.split(",") if word.strip()]
        if not all(word.isdecimal() and len(word) < len(str(MAX_EXPERTS)) for word in words):
            raise config.error("moe_layers_enum", "is not a list of layer numbers")
        sparse = {int(word) for word in words}
    elif named is not None:
        sparse = set(config.ints("moe_layers_enum") or [])
    else:
        sparse = set(range(_FIRST_SPARSE, layers))
    return ["sparse" if i in sparse else "dense" for i in range(layers + times)]


def unplayed(config: Config, attention: Sequence[str]) -> tuple[str, ...]:
    """Return what the class fails on, or does otherwise than is played: it makes a mask of a window in any case."""
    windowed = config.optional_int("sliding_window") is not None and SLIDING in attention
    found = () if windowed else ("layers that all see everything",)
    return (*found, *("use_bidirectional_attention",) * config.bool("use_bidirectional_attention"))


def rotary_dim(config: Config, attention: Sequence[str], kind: str) -> int:
    """Return how many channels of a head are turned in layers of a kind: all, or what sections or a list say."""
    dim = head_dim(config, config.size("hidden_size"), config.int("num_attention_heads"))
    if isinstance(rope_parameters(config).get(kind), Mapping):
        return turned_of_kind(config, dim, kind, 1.0)
    factors = config.list("partial_rotary_factors") or []
    factor = factors[attention.index(kind)] if len(factors) > attention.index(kind) else 1.0
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 <= factor <= 1:
        raise config.error("partial_rotary_factors", f"holds {str(factor)[:40]!r}, not a number from 0 to 1")
    return int(dim * factor)


def gated(config: Config, hidden: int, kind: str, turned: int) -> GatedAttention:
    """Return one layer's attention; sliding layers may have their own number of heads."""
    heads = config.int("num_attention_heads")
    dim = head_dim(config, hidden, heads)
    if kind == SLIDING:
        other = config.optional_int("num_sliding_attention_heads")
        heads = other or config.sub("attention_other_setting").optional_int("num_attention_heads") or heads
    window = config.optional_int("sliding_window") if kind == SLIDING else None
    norm = Norm(dim, style=PLUS_ONE)
    return replace(
        gated_heads(config, hidden, heads, dim),
        q_norm=norm,
        k_norm=norm,
        sliding_window=window,
        dropout=config.rate("attention_dropout", 0.0),
        rotary="partial",
        rotary_dim=turned,
        own_tables=True,
        gate_style="step3p5",
    )


def gated_heads(config: Config, hidden: int, heads: int, dim: int) -> GatedAttention:
    """Return attention of so many heads: normed queries and keys, a gate for each head or each of its channels."""
    bias, per_head = config.bool("attention_bias"), config.get("gating") in (None, True, "per-head")
    return GatedAttention(
        hidden,
        heads,
        config.int("num_key_value_heads"),
        dim,
        qkv_bias=bias,
        out_bias=bias,
        q_norm=Norm(dim),
        k_norm=Norm(dim),
        gate="g_proj",
        gate_size=heads if per_head else heads * dim,
    )


def dense(config: Config, hidden: int, ffn: int) -> BoundedMLP:
    """Return an MLP, in which gate and up are bounded, by infinity where no list says otherwise."""
    return BoundedMLP(hidden, ffn, config.bool("mlp_bias"), bounds_last=True)


def mixture(config: Config, hidden: int) -> tuple[MoE, dict[str, Any]]:
    """Return the mixture as its class keeps it, and the same as checkpoints name it, the shared expert beside it."""
    count, ffn = config.int("n_routed_experts", high=MAX_EXPERTS), config.int("moe_intermediate_size")
    expert, shared = (
        GatedMLP(hidden, ffn, role="expert"),
        shared_expert(dense(config, hidden, config.int("share_expert_dim"))),
    )
    top_k = config.int("num_experts_per_tok")
    built = MoE(
        Router(hidden, count, correction="e_score_correction_bias", correction_like_weights=True),
        expert,
        count,
        top_k,
        extra={"shared_experts": shared},
        stacked=replace(stacked(config, hidden, ffn, count), activation="silu", bounds="last", loops=True),
        style="step3p5",
    )
    named = MoE(Router(hidden, count), expert, count, top_k, extra={"router_bias": Tensor((count,), "buffer")})
    return built, {"moe": named, "share_expert": shared}
