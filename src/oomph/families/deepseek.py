"""DeepSeek-V2, V3, V3.2 and their kin (Kimi-K2, GLM-4.7-Flash, GLM-5, Mistral-4, A.X-K1, Youtu): latent attention.

Class defaults and structure: transformers 5.23, models/deepseek_v3 and the others by name. Kimi-K2's
configuration is DeepSeek-V3's under its own name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Norm
from oomph.blocks.latent_attention import LatentAttention
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.sparse_attention import SparseIndexer, SparseLatentAttention
from oomph.config import Config
from oomph.errors import ConfigError
from oomph.families.common import causal_lm
from oomph.families.moe_layers import by_kind, dense_first, mlp_kinds, one_of, pre_norm_layer, routed_moe
from oomph.families.mtp import after_layers, next_token_layer, predictors, with_mtp
from oomph.model import Model

_V3: dict[str, Any] = {
    "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 128, "n_shared_experts": 1, "n_routed_experts": 256,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128,
    "num_experts_per_tok": 8, "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
_V3_MTP = {**_V3, "first_k_dense_replace": 3, "num_nextn_predict_layers": 1}
TYPES: dict[str, dict[str, Any]] = {
    "deepseek_v2": {
        "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "moe_intermediate_size": 1407,
        "num_hidden_layers": 32, "num_attention_heads": 32, "n_shared_experts": 2, "n_routed_experts": 64,
        "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "qk_nope_head_dim": 128, "first_k_dense_replace": 0, "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
    "deepseek_v3": _V3_MTP,
    "kimi_k2": _V3_MTP,
    "deepseek_v32": {
        **_V3, "first_k_dense_replace": 3, "max_position_embeddings": 163840, "index_head_dim": 128,
        "index_n_heads": 64, "index_topk": 2048,
    },
    "glm_moe_dsa": {
        **_V3, "vocab_size": 154880, "hidden_size": 6144, "intermediate_size": 12288, "num_hidden_layers": 78,
        "num_attention_heads": 64, "q_lora_rank": 2048, "v_head_dim": 256, "qk_nope_head_dim": 192,
        "first_k_dense_replace": 3, "max_position_embeddings": 202752, "index_head_dim": 128, "index_n_heads": 32,
        "index_topk": 2048,
    },
    "glm4_moe_lite": {
        "vocab_size": 154880, "hidden_size": 2048, "intermediate_size": 10240, "moe_intermediate_size": 1536,
        "num_hidden_layers": 47, "num_attention_heads": 20, "n_shared_experts": 1, "n_routed_experts": 64,
        "kv_lora_rank": 512, "q_lora_rank": 768, "qk_rope_head_dim": 64, "v_head_dim": 256,
        "qk_nope_head_dim": 192, "num_experts_per_tok": 4, "max_position_embeddings": 202752,
        "tie_word_embeddings": False,
    },
    "mistral4": {
        **_V3, "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "n_routed_experts": 128, "kv_lora_rank": 256, "q_lora_rank": 1024,
        "qk_nope_head_dim": 64, "num_experts_per_tok": 4, "first_k_dense_replace": 0,
        "max_position_embeddings": 1048576,
    },
    "axk1": {
        **_V3, "vocab_size": 163840, "num_attention_heads": 64, "n_routed_experts": 192,
        "max_position_embeddings": 32768,
    },
    "youtu": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 32,
        "num_attention_heads": 16, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "qk_nope_head_dim": 128, "max_position_embeddings": 131072, "tie_word_embeddings": True,
    },
}  # fmt: skip
_EXPERTS: dict[str, tuple[str, ...]] = {
    "n_routed_experts": ("num_local_experts",), "num_nextn_predict_layers": ("num_mtp_layers",),
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("deepseek_v3", "kimi_k2", "glm4_moe_lite", "mistral4", "axk1"), _EXPERTS),
    "deepseek_v2": {"n_routed_experts": ("num_experts",)},
    "deepseek_v32": {**_EXPERTS, "n_routed_experts": ("num_local_experts", "num_experts")},
    "glm_moe_dsa": {**_EXPERTS, "n_routed_experts": ("num_local_experts", "num_experts")},
}

# Types whose published checkpoints show what their prediction layers hold: copies of both vocabulary matrices, or none.
_VOCAB_COPIES = {
    "deepseek_v3": True,
    "kimi_k2": True,
    "deepseek_v32": True,
    "glm4_moe_lite": True,
    "glm_moe_dsa": False,
}
_UNKNOWN_MTP = "The config announces multi-token-prediction layers whose contents are not known; they are not counted."
_CORRECTED = frozenset({"deepseek_v3", "kimi_k2", "deepseek_v32", "glm_moe_dsa", "glm4_moe_lite", "axk1"})
STYLES = {
    "deepseek_v2": "deepseek_v2",
    "mistral4": "mistral4",
    **dict.fromkeys(("deepseek_v3", "axk1", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_k2"), "deepseek_v3"),
}
INDEXED = ("deepseek_v32", "glm_moe_dsa")
_BY_LIST = frozenset({"deepseek_v32", "glm_moe_dsa", "glm4_moe_lite", "axk1"})  # read mlp_layer_types
_INDEXER_MODES = ("full", "shared")


def build(config: Config) -> Model:
    """Return the decoder: the first layers dense, then experts; an indexer where the type has one."""
    hidden, layers = config.size("hidden_size"), config.depth("num_hidden_layers")
    kinds = list(zip(mlp_pattern(config, layers), indexed_layers(config, layers), strict=True))

    def layer(kind: tuple[str, bool]) -> Module:
        sparse, indexed = kind
        mlp = experts(config, hidden) if sparse == "sparse" else dense(config, hidden)
        return pre_norm_layer(hidden, latent_attention(config, hidden, indexed), mlp)

    model = causal_lm(config, by_kind(kinds, layer), Norm(hidden))
    times = predictors(config)
    if not times:
        return model
    if config.model_type not in _VOCAB_COPIES:
        return replace(model, notes=(*model.notes, _UNKNOWN_MTP))
    copies = model.vocab_size if _VOCAB_COPIES[config.model_type] else 0
    last = layer((kinds[-1][0], config.model_type in ("deepseek_v32", "glm_moe_dsa")))
    return with_mtp(model, after_layers(model, times, next_token_layer(last, hidden, copies, copies)))


def mlp_pattern(config: Config, layers: int) -> list[str]:
    """Return "dense" or "sparse" per layer, by list or by the number of dense layers at the start."""
    if config.model_type == "youtu":
        return ["dense"] * layers
    if config.model_type == "glm4_moe_lite":  # its class goes by the list alone
        return mlp_kinds(config, layers, 1)
    if config.model_type == "axk1" and not config.has("first_k_dense_replace"):
        start = 1  # what its class takes, though the key is no field of it
    else:
        start = config.int("first_k_dense_replace", low=0)
    if config.model_type not in _BY_LIST:
        return dense_first(layers, start)
    kinds = mlp_kinds(config, layers, start)
    if config.model_type == "axk1" and config.get("mlp_layer_types") is None:
        every = config.optional_int("moe_layer_freq") or 1
        kinds = ["dense" if i % every else kind for i, kind in enumerate(kinds)]
    return kinds


def indexed_layers(config: Config, layers: int) -> list[bool]:
    """Return which layers have an indexer of their own; GLM-5.2's others use the tokens an earlier one picked."""
    if config.model_type == "deepseek_v32":
        return [True] * layers
    if config.model_type != "glm_moe_dsa":
        return [False] * layers
    modes = config.layer_list("indexer_types", layers)
    if modes is not None:
        return [mode == "full" for mode in one_of(config, "indexer_types", modes, _INDEXER_MODES)]
    pattern = config.get("index_topk_pattern")
    if pattern is not None:
        known = ("F", "S", *_INDEXER_MODES)
        if not isinstance(pattern, (str, list)) or len(pattern) != layers or any(m not in known for m in pattern):
            raise config.error("index_topk_pattern", f"does not say F or S for each of {layers} layers")
        return [mode in ("F", "full") for mode in pattern]
    every = config.optional_int("index_topk_freq", low=0) or 1
    offset = config.optional_int("index_skip_topk_offset", low=0)
    offset = 2 if offset is None else offset  # the class's own fallback
    return [max(i - offset + 1, 0) % every == 0 for i in range(layers)]


def latent_attention(config: Config, hidden: int, indexed: bool) -> LatentAttention:
    """Return the attention; an explicit null q_lora_rank means one query map, an absent one the class default."""
    rank = config.optional_int("q_lora_rank")
    sizes: dict[str, Any] = {
        "hidden_size": hidden,
        "num_heads": config.int("num_attention_heads"),
        "q_lora_rank": rank,
        "kv_lora_rank": config.int("kv_lora_rank"),
        "qk_nope_head_dim": config.int("qk_nope_head_dim"),
        "qk_rope_head_dim": config.int("qk_rope_head_dim"),
        "v_head_dim": config.int("v_head_dim"),
        "bias": config.bool("attention_bias"),
        "dropout": config.rate("attention_dropout", 0.0),
    }
    if config.model_type not in INDEXED:
        return LatentAttention(**sizes, rotary=rotary(config), position_scaled=config.model_type == "mistral4")
    if rank is None:
        raise ConfigError("An indexer reads the query latent, but q_lora_rank is null.", "Set q_lora_rank.")
    shares = config.model_type == "glm_moe_dsa"
    return SparseLatentAttention(**sizes, indexer=indexer(config, hidden, rank) if indexed else None, shares=shares)


def indexer(config: Config, hidden: int, rank: int) -> SparseIndexer:
    """Return what picks tokens; DeepSeek-V3.2's turns halves of its heads, GLM-5's neighbours."""
    return SparseIndexer(
        hidden,
        rank,
        config.int("index_n_heads"),
        config.int("index_head_dim"),
        top_k=config.int("index_topk"),
        rope_dim=config.int("qk_rope_head_dim"),
        rotary="interleaved" if config.model_type == "glm_moe_dsa" else "halves",
    )


def rotary(config: Config) -> str:
    """Return how queries and keys are turned: DeepSeek-V2 as complex numbers, the others pairs of neighbours or not."""
    if config.model_type == "deepseek_v2":
        return "complex"
    return "interleaved" if config.bool("rope_interleave", default=True) else "halves"


def experts(config: Config, hidden: int) -> Block:
    """Return the mixture; A.X-K1 normalises its output, DeepSeek-V2's shared MLP may have biases."""
    return routed_moe(
        config,
        hidden,
        correction="e_score_correction_bias" if config.model_type in _CORRECTED else "",
        shared_bias=mlp_bias(config),
        style=STYLES.get(config.model_type, ""),
        extra={"post_mlp_layernorm": Norm(hidden)} if config.model_type == "axk1" else None,
    )


def dense(config: Config, hidden: int) -> GatedMLP:
    """Return the ordinary MLP of a dense layer."""
    return GatedMLP(
        hidden, config.int("intermediate_size"), mlp_bias(config), activation=config.str("hidden_act", "silu")
    )


def mlp_bias(config: Config) -> bool:
    """Tell whether MLPs have biases: only DeepSeek-V2's class reads the key."""
    return config.model_type == "deepseek_v2" and config.bool("mlp_bias")
