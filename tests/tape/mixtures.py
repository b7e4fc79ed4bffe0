"""Tiny random configs of mixture-of-experts families, for the grid of jobs on which the tape must equal the trace."""

from __future__ import annotations

import random
from typing import Any

WINDOWS = (None, 2, 8, 30, 100, 101)


def _common(rng: random.Random, model_type: str) -> dict[str, Any]:
    """Sizes that every family has: odd ones, heads shared or not."""
    heads = rng.choice([2, 4, 6])
    experts = rng.choice([2, 4, 5, 8])
    return {
        "model_type": model_type,
        "vocab_size": rng.choice([64, 515, 1013]),
        "num_hidden_layers": rng.choice([1, 2, 2, 3]),
        "hidden_size": heads * rng.choice([8, 16, 32, 40]),
        "intermediate_size": rng.choice([8, 24, 64, 136]),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([1, 2, heads]),
        "max_position_embeddings": 128,
        "tie_word_embeddings": rng.random() < 0.4,
        "hidden_act": rng.choice(["silu", "silu", "gelu_pytorch_tanh"]),
        "attention_dropout": rng.choice([0.0, 0.0, 0.1]),
        "num_experts": experts,
        "num_experts_per_tok": rng.choice([n for n in (1, 2, 3) if n <= experts]),
    }


def mixtral(rng: random.Random) -> dict[str, Any]:
    """Mixtral."""
    raw = _common(rng, "mixtral")
    return raw | {"num_local_experts": raw.pop("num_experts"), "sliding_window": rng.choice(WINDOWS)}


def olmoe(rng: random.Random) -> dict[str, Any]:
    """OLMoE, whose norms span all heads."""
    return _common(rng, "olmoe") | {"norm_topk_prob": rng.random() < 0.5, "attention_bias": rng.random() < 0.3}


def _qwen(rng: random.Random, model_type: str) -> dict[str, Any]:
    raw = _common(rng, model_type) | {
        "moe_intermediate_size": rng.choice([8, 24, 64, 136]),
        "norm_topk_prob": rng.random() < 0.5,
        "decoder_sparse_step": rng.choice([1, 1, 2]),
        "mlp_only_layers": rng.choice([[], [], [0]]),
    }
    if rng.random() < 0.4:
        raw |= {"use_sliding_window": True, "sliding_window": rng.choice(WINDOWS[1:]), "max_window_layers": 2}
    return raw


def qwen2_moe(rng: random.Random) -> dict[str, Any]:
    """Qwen2-MoE, with a shared expert."""
    return _qwen(rng, "qwen2_moe") | {
        "shared_expert_intermediate_size": rng.choice([17, 64, 331]),
        "qkv_bias": rng.random() < 0.7,
    }


def qwen3_moe(rng: random.Random) -> dict[str, Any]:
    """Qwen3-MoE, with norms on every head."""
    return _qwen(rng, "qwen3_moe") | {"head_dim": rng.choice([8, 18, 40]), "attention_bias": rng.random() < 0.3}


def mellum(rng: random.Random) -> dict[str, Any]:
    """Mellum 2: Qwen3-MoE's layers, some with a window, tables for each kind, dense layers by a list."""
    raw = _common(rng, "mellum") | {"head_dim": rng.choice([8, 18, 40]), "attention_bias": rng.random() < 0.3}
    layers, kinds = raw["num_hidden_layers"], ["full_attention", "sliding_attention"]
    return raw | {
        "moe_intermediate_size": rng.choice([8, 24, 64, 136]),
        "norm_topk_prob": rng.random() < 0.5,
        "sliding_window": rng.choice(WINDOWS[1:]),
        "layer_types": [rng.choice(kinds) for _ in range(layers)],
        "mlp_layer_types": [rng.choice(["dense", "sparse", "sparse"]) for _ in range(layers)],
    }


def deepseek_v3(rng: random.Random) -> dict[str, Any]:
    """DeepSeek-V3: latent attention, dense layers first, experts in groups."""
    raw = _common(rng, "deepseek_v3")
    groups = rng.choice([1, 2, 4])
    del raw["num_experts"]
    raw["num_key_value_heads"] = raw["num_attention_heads"]
    return raw | {
        "moe_intermediate_size": rng.choice([8, 24, 64, 136]),
        "n_routed_experts": groups * rng.choice([2, 3]),
        "num_experts_per_tok": rng.choice([1, 2]),
        "n_shared_experts": rng.choice([1, 2]),
        "n_group": groups,
        "topk_group": rng.choice([1, groups]),
        "first_k_dense_replace": rng.choice([0, 1, 2]),
        "norm_topk_prob": rng.random() < 0.6,
        "kv_lora_rank": rng.choice([8, 18, 32]),
        "q_lora_rank": rng.choice([None, 16, 24]),
        "qk_rope_head_dim": rng.choice([4, 8, 16]),
        "qk_nope_head_dim": rng.choice([8, 16, 24, 132]),
        "v_head_dim": rng.choice([8, 16, 20, 40]),
        "rope_interleave": rng.random() < 0.7,
        "attention_bias": rng.random() < 0.3,
    }


def deepseek_v32(rng: random.Random) -> dict[str, Any]:
    """DeepSeek-V3.2: an indexer picks the tokens that are attended to."""
    raw = deepseek_v3(rng) | {"model_type": "deepseek_v32", "q_lora_rank": rng.choice([16, 24])}
    rope = raw["qk_rope_head_dim"]
    raw |= {"index_n_heads": rng.choice([1, 2, 4]), "index_head_dim": rope + rng.choice([4, 16])}
    del raw["rope_interleave"]
    return raw | {"index_topk": rng.choice([4, 16, 200])}


def glm_moe_dsa(rng: random.Random) -> dict[str, Any]:
    """GLM-5: the same, where layers may use what an earlier one picked."""
    kinds = rng.choice([["full", "shared"], ["full", "shared", "shared"], ["full", "full", "shared"]])
    return deepseek_v32(rng) | {
        "model_type": "glm_moe_dsa", "num_hidden_layers": len(kinds), "indexer_types": kinds,
    }  # fmt: skip


def axk1(rng: random.Random) -> dict[str, Any]:
    """A.X-K1: DeepSeek-V3 with a norm behind its mixtures."""
    return deepseek_v3(rng) | {"model_type": "axk1", "q_lora_rank": rng.choice([16, 24])}


def deepseek_v2(rng: random.Random) -> dict[str, Any]:
    """DeepSeek-V2: the same with a softmax, positions as complex numbers."""
    method = rng.choice(["greedy", "group_limited_greedy"])
    raw = deepseek_v3(rng) | {"model_type": "deepseek_v2", "topk_method": method, "mlp_bias": rng.random() < 0.3}
    del raw["rope_interleave"]
    return raw


def glm4_moe_lite(rng: random.Random) -> dict[str, Any]:
    """GLM-4.7-Flash: DeepSeek-V3 whose layers are listed."""
    raw = deepseek_v3(rng) | {"model_type": "glm4_moe_lite"}
    dense = raw.pop("first_k_dense_replace")
    depth = raw["num_hidden_layers"]
    return raw | {"mlp_layer_types": ["dense" if index < dense else "sparse" for index in range(depth)]}


FIXED_ALPHA = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}  # as Hunyuan-A13B is published


def hunyuan_v1_moe(rng: random.Random) -> dict[str, Any]:
    """Hunyuan-A13B: norms behind the rotation, a router in fp32, an MLP that every token passes through."""
    raw = _common(rng, "hunyuan_v1_moe") | {"head_dim": rng.choice([8, 18, 40]), "attention_bias": rng.random() < 0.3}
    return raw | {"moe_topk": raw.pop("num_experts_per_tok"), "rope_scaling": dict(FIXED_ALPHA)}


def dots1(rng: random.Random) -> dict[str, Any]:
    """dots.llm1: grouped-query attention with head norms, DeepSeek-V3's mixture."""
    latent = ("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "rope_interleave")
    raw = deepseek_v3(rng) | {"model_type": "dots1", "head_dim": rng.choice([8, 18, 40])}
    raw["num_key_value_heads"] = rng.choice([1, 2, raw["num_attention_heads"]])
    return {key: value for key, value in raw.items() if key not in latent}


def glm4_moe(rng: random.Random) -> dict[str, Any]:
    """GLM-4.5: half of a head's channels turned, perhaps head norms, DeepSeek-V3's mixture."""
    raw = dots1(rng) | {"model_type": "glm4_moe", "use_qk_norm": rng.random() < 0.5}
    if rng.random() < 0.5:
        raw["partial_rotary_factor"] = rng.choice([0.25, 1.0])
    return raw | {"head_dim": rng.choice([8, 16, 40])}


def solar_open(rng: random.Random) -> dict[str, Any]:
    """Solar-Open: GLM-4.5 with whole heads turned and experts in every layer."""
    raw = dots1(rng) | {"model_type": "solar_open"}
    del raw["first_k_dense_replace"]
    return raw


def minimax_m2(rng: random.Random) -> dict[str, Any]:
    """MiniMax-M2: norms that span all heads, part of their channels turned, a corrected sigmoid router."""
    raw = mixtral(rng) | {"model_type": "minimax_m2", "head_dim": 16, "rotary_dim": rng.choice([8, 16])}
    del raw["sliding_window"]
    return raw


def flex_olmo(rng: random.Random) -> dict[str, Any]:
    """FlexOlmo: OLMoE's mixture between OLMo 2's norms."""
    return olmoe(rng) | {"model_type": "flex_olmo", "pad_token_id": None}


def ernie4_5_moe(rng: random.Random) -> dict[str, Any]:
    """ERNIE-4.5: dense layers first, pairs turned in fp32, a router in fp32, shared experts or none."""
    raw = _common(rng, "ernie4_5_moe") | {"use_bias": rng.random() < 0.3, "moe_num_shared_experts": rng.choice([0, 2])}
    experts, chosen = raw.pop("num_experts"), raw.pop("num_experts_per_tok")
    return raw | {
        "moe_num_experts": experts, "moe_k": chosen, "moe_intermediate_size": rng.choice([8, 24, 64]),
        "moe_layer_start_index": rng.choice([0, 1]), "pad_token_id": 0,
    }  # fmt: skip


def granitemoe(rng: random.Random) -> dict[str, Any]:
    """Granite-MoE: numbers before each sum, the largest logits alone in a softmax."""
    raw = _common(rng, "granitemoe") | {"attention_bias": rng.random() < 0.3, "residual_multiplier": 0.5}
    return raw | {"num_local_experts": raw.pop("num_experts"), "logits_scaling": rng.choice([1.0, 6.0])}


def granitemoeshared(rng: random.Random) -> dict[str, Any]:
    """Granite-MoE with an MLP that every token passes through, or without."""
    return granitemoe(rng) | {"model_type": "granitemoeshared", "shared_intermediate_size": rng.choice([0, 17, 64])}


def gpt_oss(rng: random.Random) -> dict[str, Any]:
    """gpt-oss: sinks, windows in every other layer, biases, experts of its own."""
    raw = _common(rng, "gpt_oss") | {"head_dim": rng.choice([8, 18, 40]), "attention_bias": rng.random() < 0.7}
    del raw["hidden_act"]
    return raw | {"num_local_experts": raw.pop("num_experts"), "sliding_window": rng.choice(WINDOWS[1:])}


def llama4_text(rng: random.Random) -> dict[str, Any]:
    """Llama 4: chunks, layers that turn no heads, every expert computing every token, dense layers between."""
    raw = _common(rng, "llama4_text") | {"head_dim": rng.choice([8, 16, 40]), "attention_bias": rng.random() < 0.3}
    raw |= {"num_hidden_layers": 3, "intermediate_size_mlp": rng.choice([17, 64]), "floor_scale": 8}
    return raw | {
        "num_local_experts": raw.pop("num_experts"), "interleave_moe_layer_step": rng.choice([1, 2]),
        "attention_chunk_size": rng.choice([2, 8, 30, 200]), "use_qk_norm": rng.random() < 0.6,
        "no_rope_layers": rng.choice([[1, 0, 1], [1, 1, 0]]), "attn_temperature_tuning": rng.random() < 0.6,
    }  # fmt: skip


def phimoe(rng: random.Random) -> dict[str, Any]:
    """Phi-3.5-MoE: layer norms, two experts drawn one after the other, noise on what the router reads."""
    raw = mixtral(rng) | {"model_type": "phimoe", "num_experts_per_tok": 2, "attention_bias": rng.random() < 0.6}
    raw |= {"lm_head_bias": rng.random() < 0.5, "input_jitter_noise": rng.choice([0.0, 0.01])}
    if rng.random() < 0.4:
        factors = [1.0] * (raw["hidden_size"] // raw["num_attention_heads"] // 2)
        raw["rope_parameters"] = {
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": factors, "long_factor": factors,
            "short_mscale": 1.1, "long_mscale": 1.2, "original_max_position_embeddings": 64,
        }  # fmt: skip
    return raw


def laguna(rng: random.Random) -> dict[str, Any]:
    """Laguna: a number of heads and a window of each layer's own, tables for each kind, gates after attention."""
    raw = _common(rng, "laguna") | {"head_dim": rng.choice([8, 16, 40]), "attention_bias": rng.random() < 0.3}
    depth, few = raw["num_hidden_layers"], raw["num_key_value_heads"]
    raw |= {"layer_types": rng.choices(["full_attention", "sliding_attention"], k=depth)}
    raw |= {
        "mlp_layer_types": rng.choices(["dense", "sparse", "sparse"], k=depth),
        "sliding_window": rng.choice(WINDOWS[1:]),
    }
    raw |= {"moe_intermediate_size": rng.choice([8, 24, 64]), "shared_expert_intermediate_size": rng.choice([17, 64])}
    raw |= {"moe_router_logit_softcapping": rng.choice([0.0, 5.0]), "gating": rng.choice([True, "per-element"])}
    return raw | {"num_attention_heads_per_layer": [few * rng.choice([1, 2, 3]) for _ in range(depth)]}


KINDS = ("sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention")


def deepseek_v4(rng: random.Random) -> dict[str, Any]:
    """DeepSeek-V4: windows, entries that tokens are folded into, several streams, experts by hash or score."""
    depth = rng.choice([1, 2, 2])
    raw = {
        "model_type": "deepseek_v4", "vocab_size": rng.choice([64, 515]), "hidden_size": rng.choice([24, 40, 64]),
        "moe_intermediate_size": rng.choice([8, 24, 64]), "num_hidden_layers": depth, "head_dim": rng.choice([16, 40]),
        "num_attention_heads": rng.choice([2, 4]), "n_routed_experts": rng.choice([4, 5]), "o_groups": 2,
        "num_experts_per_tok": rng.choice([1, 3]), "hc_mult": rng.choice([2, 3, 4]),
        "hc_sinkhorn_iters": rng.choice([1, 3]), "q_lora_rank": rng.choice([11, 32]), "o_lora_rank": 7,
        "index_n_heads": rng.choice([1, 3]), "index_head_dim": rng.choice([8, 24]), "index_topk": rng.choice([2, 512]),
        "qk_rope_head_dim": rng.choice([4, 8]), "mlp_bias": rng.random() < 0.3,
        "sliding_window": rng.choice([2, 8, 128]),
    }  # fmt: skip
    return raw | {
        "layer_types": rng.choices(KINDS, k=depth), "mlp_layer_types": rng.choices(["hash_moe", "moe"], k=depth),
        "compress_rates": {KINDS[1]: rng.choice([2, 4]), KINDS[2]: rng.choice([5, 8])},
        "attention_dropout": rng.choice([0.0, 0.1]), "tie_word_embeddings": rng.random() < 0.3,
        "scoring_func": rng.choice(["sqrtsoftplus", "sqrtsoftplus", "sigmoid"]),
    }  # fmt: skip


def mimo_v2_flash(rng: random.Random) -> dict[str, Any]:
    """MiMo-V2-Flash: sinks and twice the key heads in windows, values narrower than keys, no shared experts."""
    raw = deepseek_v3(rng) | {"model_type": "mimo_v2_flash", "num_key_value_heads": rng.choice([1, 2])}
    for key in ("first_k_dense_replace", "n_shared_experts", "kv_lora_rank", "q_lora_rank", "qk_rope_head_dim"):
        del raw[key]
    for key in ("qk_nope_head_dim", "rope_interleave"):
        del raw[key]
    depth = raw["num_hidden_layers"]
    return raw | {
        "num_attention_heads": 4, "head_dim": rng.choice([12, 24]), "v_head_dim": rng.choice([8, 12, 20]),
        "layer_types": rng.choices(["full_attention", "sliding_attention"], k=depth),
        "mlp_layer_types": rng.choices(["dense", "sparse", "sparse"], k=depth),
        "sliding_window": rng.choice(WINDOWS[1:]),
    }  # fmt: skip


def minimax_m3_vl_text(rng: random.Random) -> dict[str, Any]:
    """MiniMax-M3's text: blocks of tokens that an indexer picks, fused gates with bounds, dense layers or mixtures."""
    raw = mixtral(rng) | {"model_type": "minimax_m3_vl_text", "head_dim": rng.choice([8, 16])}
    del raw["sliding_window"], raw["hidden_act"]
    depth, heads = raw["num_hidden_layers"], raw["num_key_value_heads"]
    if rng.random() < 0.5:
        raw["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    return raw | {
        "dense_intermediate_size": rng.choice([17, 64]), "shared_intermediate_size": rng.choice([17, 64]),
        "layer_types": rng.choices(["minimax_m3_sparse", "minimax_m3_sparse", "full_attention"], k=depth),
        "mlp_layer_types": rng.choices(["dense", "sparse", "sparse"], k=depth), "index_n_heads": heads,
        "index_head_dim": rng.choice([8, 24]), "index_block_size": rng.choice([4, 16]),
        "index_topk_blocks": rng.choice([1, 3, 50]), "index_local_blocks": rng.choice([0, 1, 2]),
    }  # fmt: skip


def afmoe(rng: random.Random) -> dict[str, Any]:
    """Trinity: four norms, gates of each channel, full layers that turn nothing, shared experts between."""
    raw = _common(rng, "afmoe") | {"head_dim": rng.choice([8, 16, 40]), "attention_bias": rng.random() < 0.3}
    raw |= {"num_hidden_layers": 3, "sliding_window": rng.choice(WINDOWS[1:]), "mup_enabled": rng.random() < 0.5}
    kinds = rng.choice([["full_attention", "sliding_attention"], ["sliding_attention", "full_attention"]])
    raw |= {"layer_types": [*kinds, rng.choice(kinds)], "num_dense_layers": rng.choice([0, 1])}
    return raw | {"moe_intermediate_size": rng.choice([8, 24, 64]), "num_shared_experts": rng.choice([1, 2])}


def exaone_moe(rng: random.Random) -> dict[str, Any]:
    """K-EXAONE: DeepSeek-V3's mixture under head norms, full layers that turn nothing."""
    raw = dots1(rng) | {"model_type": "exaone_moe"}
    raw |= {"num_experts": raw.pop("n_routed_experts"), "num_shared_experts": raw.pop("n_shared_experts")}
    del raw["attention_bias"]
    depth = raw["num_hidden_layers"]
    kinds = rng.choices(["full_attention", "sliding_attention"], k=depth)
    return raw | {"sliding_window": rng.choice(WINDOWS[1:]), "layer_types": kinds}


def hy_v3(rng: random.Random) -> dict[str, Any]:
    """Hunyuan 3: one correction beside the router, experts that may be added up in fp32."""
    raw = _common(rng, "hy_v3") | {"head_dim": rng.choice([8, 18, 40]), "attention_bias": rng.random() < 0.3}
    raw |= {"mlp_layer_types": rng.choices(["dense", "sparse", "sparse"], k=raw["num_hidden_layers"])}
    raw |= {"moe_intermediate_size": rng.choice([8, 24, 64]), "num_shared_experts": rng.choice([1, 2])}
    return raw | {"mlp_bias": rng.random() < 0.3, "enable_moe_fp32_combine": rng.random() < 0.5}


def mistral4(rng: random.Random) -> dict[str, Any]:
    """Mistral 4: DeepSeek-V3's latents with queries that grow with their position, a softmax router."""
    return deepseek_v3(rng) | {"model_type": "mistral4", "rope_parameters": None}


# Almost another's code: one job of each is enough.
KIN = ("axk1", "glm4_moe_lite", "granitemoeshared", "hunyuan_v1_moe")
LONG = ("deepseek_v32", "deepseek_v4", "glm_moe_dsa")  # layers of many operations: one job of each kind
CONFIGS = {
    "flex_olmo": flex_olmo,
    "ernie4_5_moe": ernie4_5_moe,
    "glm4_moe": glm4_moe,
    "granitemoe": granitemoe,
    "granitemoeshared": granitemoeshared,
    "minimax_m2": minimax_m2,
    "solar_open": solar_open,
    "gpt_oss": gpt_oss,
    "dots1": dots1,
    "glm4_moe_lite": glm4_moe_lite,
    "hunyuan_v1_moe": hunyuan_v1_moe,
    "afmoe": afmoe,
    "exaone_moe": exaone_moe,
    "hy_v3": hy_v3,
    "laguna": laguna,
    "mimo_v2_flash": mimo_v2_flash,
    "minimax_m3_vl_text": minimax_m3_vl_text,
    "deepseek_v4": deepseek_v4,
    "deepseek_v32": deepseek_v32,
    "glm_moe_dsa": glm_moe_dsa,
    "axk1": axk1,
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "llama4_text": llama4_text,
    "mellum": mellum,
    "mistral4": mistral4,
    "mixtral": mixtral,
    "olmoe": olmoe,
    "phimoe": phimoe,
    "qwen2_moe": qwen2_moe,
    "qwen3_moe": qwen3_moe,
}
