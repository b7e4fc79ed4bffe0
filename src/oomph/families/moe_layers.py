"""What mixture-of-experts families share: which layers are sparse, and the usual attention and experts.

Shape letters: H hidden, F expert ffn, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module, Part
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router, StackedExperts, shared_expert
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import head_dim

Kind = TypeVar("Kind", bound=Hashable)
Layer = TypeVar("Layer", bound=Block)


def by_kind(kinds: Sequence[Kind], build: Callable[[Kind], Layer]) -> tuple[Layer, ...]:
    """Return one block per entry of `kinds`; entries that are equal share one object.

    >>> a, b, c = by_kind(["dense", "sparse", "sparse"], lambda kind: Norm(8))
    >>> a is b, b is c
    (False, True)
    """
    built = {kind: build(kind) for kind in dict.fromkeys(kinds)}
    return tuple(built[kind] for kind in kinds)


def dense_first(layers: int, dense: int) -> list[str]:
    """Return the kinds of a stack whose first `dense` layers have an ordinary MLP.

    >>> dense_first(3, 1)
    ['dense', 'sparse', 'sparse']
    """
    dense = min(dense, layers)
    return ["dense"] * dense + ["sparse"] * (layers - dense)


def one_of(config: Config, key: str, values: Sequence[object], allowed: Sequence[str]) -> list[str]:
    """Return a list from the config as given, an error when an entry is not one of the known words."""
    for value in values:
        if value not in allowed:
            raise config.error(key, f"holds {str(value)[:40]!r}, none of {', '.join(allowed)}")
    return [str(value) for value in values]


def mlp_kinds(config: Config, layers: int, dense: int) -> list[str]:
    """Return "dense" or "sparse" per layer: mlp_layer_types if the file lists them, else the first `dense`."""
    listed = config.layer_list("mlp_layer_types", layers)
    if listed is None:
        return dense_first(layers, dense)
    return one_of(config, "mlp_layer_types", listed, ("dense", "sparse"))


def gqa(config: Config, hidden: int, *, bias: bool = False, out_bias: bool = False, qk_norm: bool = False) -> Attention:
    """Return grouped-query attention as the usual keys say it; `qk_norm` is one norm per head dim."""
    heads = config.int("num_attention_heads")
    dim = head_dim(config, hidden, heads)
    norm = Norm(dim) if qk_norm else None
    kv_heads = config.optional_int("num_key_value_heads") or heads
    rate = config.rate("attention_dropout", 0.0)
    return Attention(
        hidden, heads, kv_heads, dim, qkv_bias=bias, out_bias=out_bias, q_norm=norm, k_norm=norm, dropout=rate
    )  # fmt: skip


def stacked(config: Config, hidden: int, ffn: int, experts: int) -> StackedExperts:
    """Return the experts as transformers keeps them on a device."""
    return StackedExperts(hidden, ffn, experts, activation=config.str("hidden_act", "silu"))


def routed_moe(
    config: Config,
    hidden: int,
    *,
    experts: str = "n_routed_experts",
    shared: str = "n_shared_experts",
    shared_name: str = "shared_experts",
    correction: str = "e_score_correction_bias",
    shared_bias: bool = False,
    style: str = "",
    extra: dict[str, Part] | None = None,
) -> MoE:
    """Return DeepSeek's mixture: E fine-grained experts, and n more of the same width fused into one shared MLP.

    `experts` and `shared` are the config's keys for E and n; `correction` names the router's buffer, '' for none;
    `style` is the mixture's program, '' where there is none.
    """
    ffn, count = config.int("moe_intermediate_size"), config.int(experts, high=MAX_EXPERTS)
    act = config.str("hidden_act", "silu")
    groups, chosen = config.optional_int("n_group") or 1, config.optional_int("topk_group") or 1
    if config.str("topk_method") == "greedy" or (config.model_type == "deepseek_v2" and not config.str("topk_method")):
        groups = 0  # no groups are looked at
    always = config.optional_int(shared, low=0) or 0
    beside: dict[str, Part] = {}
    if always:
        beside[shared_name] = shared_expert(GatedMLP(hidden, ffn * always, shared_bias, activation=act))
    beside |= extra or {}
    return MoE(
        Router(hidden, count, correction=correction),
        GatedMLP(hidden, ffn, role="expert"),
        count,
        config.int("num_experts_per_tok"),
        extra=beside,
        stacked=stacked(config, hidden, ffn, count),
        experts_first=True,
        style=style,
        normalised=config.bool("norm_topk_prob", default=True),
        groups=(groups, chosen),
    )


def pre_norm_layer(hidden: int, attention: Block, mlp: Block, mlp_name: str = "mlp") -> Module:
    """Return the usual layer: attention and MLP, each behind an RMSNorm."""
    return Module(
        {
            "self_attn": attention,
            mlp_name: mlp,
            "input_layernorm": Norm(hidden),
            "post_attention_layernorm": Norm(hidden),
        }
    )
