"""DeepSeek-V4: compressed attention, hyper-connections, experts in every layer (the first ones routed by hash).

Class defaults and structure: transformers 5.23, models/deepseek_v4, whose names are kept (the published files
spell them in DeepSeek's own way). Prediction layers as the published checkpoints store them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module, Part
from oomph.blocks.basic import Fp32Norm, Linear, Norm
from oomph.blocks.compressed_attention import CompressedAttention, CompressedIndexer, Compressor
from oomph.blocks.hyper_connection import HyperConnection, HyperHead
from oomph.blocks.mlp import BoundedMLP, GatedMLP
from oomph.blocks.moe import HashRouter, Router, ScoredMoE, shared_expert
from oomph.config import MAX_EXPERTS, Config
from oomph.families.common import causal_lm
from oomph.families.moe_layers import by_kind, one_of, stacked
from oomph.families.mtp import predictors, with_mtp
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "deepseek_v4": {
        "vocab_size": 129280, "hidden_size": 4096, "moe_intermediate_size": 2048, "num_hidden_layers": 43,
        "num_attention_heads": 64, "head_dim": 512, "q_lora_rank": 1024, "num_experts_per_tok": 6,
        "n_routed_experts": 256, "max_position_embeddings": 1048576, "hc_mult": 4, "o_groups": 8,
        "o_lora_rank": 1024, "sliding_window": 128, "index_n_heads": 64, "index_head_dim": 128,
        "num_nextn_predict_layers": 1, "tie_word_embeddings": False,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "deepseek_v4": {"n_routed_experts": ("num_local_experts",), "moe_intermediate_size": ("intermediate_size",)}
}

WINDOW, SPARSE, HEAVY = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
_RATIOS = {0: WINDOW, 4: SPARSE, 128: HEAVY}  # compress_ratios as the published configs spell them
_RATES = {SPARSE: ("compress_rate_csa", 4), HEAVY: ("compress_rate_hca", 128)}  # older key, class default
_ITERATIONS, _TOP_K = 20, 512  # class defaults of hc_sinkhorn_iters and index_topk
_TURNED = 64 / 512  # which part of a head's channels, the class's default_partial_rotary_factor
_SCORES = ("sqrtsoftplus", "sigmoid")
_HASH_LAYERS = 3  # the class's default_num_hash_layers
_MLPS = ("hash_moe", "moe")


def build(config: Config) -> Model:
    """Return the decoder; prediction layers see the window alone unless compress_ratios says otherwise."""
    hidden, layers, streams = config.size("hidden_size"), config.depth("num_hidden_layers"), config.int("hc_mult")
    iterations = config.optional_int("hc_sinkhorn_iters") or _ITERATIONS
    rates = compress_rates(config)
    times = predictors(config)
    attention = attention_kinds(config, layers, times)

    def layer(kind: tuple[str, str]) -> Module:
        return Module(
            {
                "self_attn": compressed_attention(config, hidden, kind[0], rates),
                "mlp": mixture(config, hidden, hashed=kind[1] == "hash_moe"),
                "input_layernorm": Fp32Norm(hidden),
                "post_attention_layernorm": Fp32Norm(hidden),
                "attn_hc": HyperConnection(hidden, streams, iterations, kind="attention"),
                "ffn_hc": HyperConnection(hidden, streams, iterations, kind="mlp"),
            }
        )

    scoring = config.str("scoring_func", _SCORES[0])
    unplayed = () if scoring in _SCORES else (f"scoring_func={scoring}"[:60],)
    kinds = list(zip(attention[:layers], mixture_kinds(config, layers), strict=True))
    model = causal_lm(config, by_kind(kinds, layer), Fp32Norm(hidden), unplayed=unplayed)
    head = {"model.hc_head": HyperHead(hidden, streams)}
    parts: dict[str, Part] = {
        f"mtp.{i}": next_token_layer(layer((kind, "moe")), hidden, streams) for i, kind in enumerate(attention[layers:])
    }
    return with_mtp(model, {**head, **parts})


def attention_kinds(config: Config, layers: int, times: int) -> list[str]:
    """Return the attention of every layer and of `times` prediction layers behind them."""
    kinds = config.list("layer_types")
    if kinds is not None:
        kinds = list(one_of(config, "layer_types", kinds, (WINDOW, SPARSE, HEAVY)))
    ratios = config.ints("compress_ratios")
    if kinds is None and ratios is not None:
        if any(ratio not in _RATIOS for ratio in ratios):
            raise config.error("compress_ratios", f"holds a ratio other than {', '.join(map(str, _RATIOS))}")
        kinds = [_RATIOS[ratio] for ratio in ratios]
    if kinds is None:
        kinds = [SPARSE if i > 1 and i % 2 else HEAVY for i in range(layers)]
    if len(kinds) < layers:
        raise config.error("layer_types", f"names {len(kinds)} of {layers} layers")
    beyond = kinds[layers : layers + times]
    return kinds[:layers] + beyond + [WINDOW] * (times - len(beyond))


def mixture_kinds(config: Config, layers: int) -> list[str]:
    """Return how each layer picks experts: the first ones by a table of tokens, the rest by scores."""
    listed = config.list("mlp_layer_types")
    if listed is None:
        hashed = config.optional_int("num_hash_layers", low=0)
        hashed = min(_HASH_LAYERS if hashed is None else hashed, layers)
        return ["hash_moe"] * hashed + ["moe"] * (layers - hashed)
    if len(listed) < layers:
        raise config.error("mlp_layer_types", f"has {len(listed)} entries for {layers} layers")
    return one_of(config, "mlp_layer_types", listed[:layers], _MLPS)


def compress_rates(config: Config) -> dict[str, int]:
    """Return how many tokens each kind of compressed attention folds into one entry."""
    given = config.sub("compress_rates")
    found: dict[str, int] = {}
    for kind, (older, default) in _RATES.items():
        found[kind] = config.optional_int(older) or given.optional_int(kind) or default
    return found


def compressed_attention(config: Config, hidden: int, kind: str, rates: Mapping[str, int]) -> CompressedAttention:
    """Return one layer's attention with the compressor its kind has."""
    dim, rank, rope = config.int("head_dim"), config.int("q_lora_rank"), turned(config)
    compressor = None
    if kind == HEAVY:
        compressor = Compressor(hidden, dim, rates[HEAVY], rope_dim=rope)
    if kind == SPARSE:
        heads, index_dim = config.int("index_n_heads"), config.int("index_head_dim")
        top_k = config.optional_int("index_topk") or _TOP_K
        indexer = CompressedIndexer(hidden, rank, heads, index_dim, rates[SPARSE], rope, top_k)
        compressor = Compressor(hidden, dim, rates[SPARSE], overlap=2, indexer=indexer, rope_dim=rope)
    return CompressedAttention(
        hidden,
        config.int("num_attention_heads"),
        dim,
        rank,
        config.int("o_groups"),
        config.int("o_lora_rank"),
        compressor,
        config.int("sliding_window"),
        rope,
        config.rate("attention_dropout", 0.0),
    )


def turned(config: Config) -> int:
    """Return how many channels of a head are turned."""
    dim, given = config.int("head_dim"), config.optional_int("qk_rope_head_dim")
    if given is not None and config.raw.get("partial_rotary_factor") is None:
        return given
    return int(dim * config.rate("partial_rotary_factor", _TURNED))


def mixture(config: Config, hidden: int, hashed: bool) -> Block:
    """Return the experts and the shared one; a hashed router stores the experts of every token (vocab × top k)."""
    experts, top_k = config.int("n_routed_experts", high=MAX_EXPERTS), config.int("num_experts_per_tok")
    ffn = config.int("moe_intermediate_size")
    act = config.str("hidden_act", "silu")
    router: Block = Router(hidden, experts, correction="e_score_correction_bias")
    built = None
    if hashed:
        built = HashRouter(hidden, experts, vocab_size=config.size("vocab_size"))
        table = Tensor((config.size("vocab_size"), top_k), "buffer")
        router = Module({**Router(hidden, experts).parts, "tid2eid": table}, kind="moe_router")
    shared = shared_expert(BoundedMLP(hidden, ffn, config.bool("mlp_bias"), activation=act))
    expert = GatedMLP(hidden, ffn, role="expert")
    return ScoredMoE(
        router,
        expert,
        experts,
        top_k,
        extra={"shared_experts": shared},
        stacked=replace(stacked(config, hidden, ffn, experts), bounds="first"),
        built_router=built,
        scoring=config.str("scoring_func", _SCORES[0]),
    )


def next_token_layer(layer: Module, hidden: int, streams: int) -> Module:
    """Return a prediction layer: two square maps of the inputs, their norms, a layer and its own stream head."""
    return Module(
        {
            "e_proj": Linear(hidden, hidden),
            "h_proj": Linear(hidden, hidden),
            "enorm": Norm(hidden),
            "hnorm": Norm(hidden),
            **layer.members,
            "norm": Norm(hidden),
            "hc_head": HyperHead(hidden, streams),
        },
        kind="mtp",
    )
