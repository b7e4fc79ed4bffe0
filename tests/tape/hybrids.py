"""Tiny random configs of hybrid families, for the grid of jobs on which the tape must equal the trace."""

from __future__ import annotations

import random
from typing import Any

FULL, CONV, LINEAR, HYBRID = "full_attention", "conv", "linear_attention", "hybrid"


def _common(rng: random.Random, model_type: str) -> dict[str, Any]:
    """Sizes that every family has: odd ones, heads shared or not."""
    heads = rng.choice([2, 4, 6])
    return {
        "model_type": model_type,
        "vocab_size": rng.choice([64, 515, 1013]),
        "hidden_size": heads * rng.choice([8, 16, 32, 40]),
        "intermediate_size": rng.choice([24, 64, 136]),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([1, 2, heads]),
        "max_position_embeddings": 128,
        "tie_word_embeddings": rng.random() < 0.4,
    }


def _layers(rng: random.Random, other: str) -> dict[str, Any]:
    """Two or three layers, attention in some."""
    kinds = rng.choice([[other, FULL], [FULL, other], [other, other, FULL], [other, FULL, other]])
    return {"num_hidden_layers": len(kinds), "layer_types": kinds}


def lfm2(rng: random.Random) -> dict[str, Any]:
    """LFM2: gated short convolutions."""
    kernel, bias = rng.choice([2, 3, 4]), rng.random() < 0.4
    return _common(rng, "lfm2") | _layers(rng, CONV) | {
        "conv_L_cache": kernel, "conv_bias": bias, "block_multiple_of": 16
    }  # fmt: skip


def lfm2_moe(rng: random.Random) -> dict[str, Any]:
    """LFM2-MoE: the same with experts after the first layers, chosen with a bias or without."""
    return lfm2(rng) | {
        "model_type": "lfm2_moe",
        "num_experts": rng.choice([4, 5, 8]),
        "num_experts_per_tok": rng.choice([1, 2]),
        "moe_intermediate_size": rng.choice([8, 24, 64]),
        "num_dense_layers": rng.choice([0, 1]),
        "use_expert_bias": rng.random() < 0.6,
        "norm_topk_prob": rng.random() < 0.6,
    }


def lfm3(rng: random.Random) -> dict[str, Any]:
    """LFM3: windows in some layers, gates on heads, norms before and after."""
    kinds = rng.choice([[CONV, FULL, "sliding_attention"], ["sliding_attention", CONV, FULL], [FULL, CONV]])
    return lfm2(rng) | {
        "model_type": "lfm3", "head_dim": rng.choice([8, 16]), "sliding_window": rng.choice([8, 30, 100]),
        "layer_types": kinds, "num_hidden_layers": len(kinds), "use_sandwich_norm": rng.random() < 0.6,
        "use_attention_gate": rng.random() < 0.6, "attention_bias": rng.random() < 0.3, "pad_token_id": None,
        "attention_dropout": rng.choice([0.0, 0.1]),
    }  # fmt: skip


def _delta_net(rng: random.Random, model_type: str) -> dict[str, Any]:
    """Gated delta nets with keys for one or several values, gated attention that turns part of a head."""
    keys, each = rng.choice([(1, 2), (2, 1), (2, 2), (3, 1)])  # of one value head fake tensors lay out views otherwise
    return _common(rng, model_type) | _layers(rng, LINEAR) | {
        "head_dim": rng.choice([16, 32]), "partial_rotary_factor": rng.choice([0.25, 0.5]),
        "linear_num_key_heads": keys, "linear_num_value_heads": keys * each,
        "linear_key_head_dim": rng.choice([8, 12]), "linear_value_head_dim": rng.choice([8, 16]),
        "linear_conv_kernel_dim": rng.choice([2, 4]), "attention_bias": rng.random() < 0.3,
        "attention_dropout": rng.choice([0.0, 0.1]), "hidden_act": "silu",
    }  # fmt: skip


def _experts(rng: random.Random) -> dict[str, Any]:
    return {
        "num_experts": rng.choice([4, 5]), "num_experts_per_tok": rng.choice([1, 2]),
        "moe_intermediate_size": rng.choice([8, 24]), "shared_expert_intermediate_size": rng.choice([17, 40]),
    }  # fmt: skip


def qwen3_next(rng: random.Random) -> dict[str, Any]:
    """Qwen3-Next: experts with a shared one, in some layers."""
    step, normalised = rng.choice([1, 1, 2]), rng.random() < 0.6
    return _delta_net(rng, "qwen3_next") | _experts(rng) | {"decoder_sparse_step": step, "norm_topk_prob": normalised}


def qwen3_5_text(rng: random.Random) -> dict[str, Any]:
    """Qwen3.5: four input maps, positions of three axes."""
    return _delta_net(rng, "qwen3_5_text")


def qwen3_5_moe_text(rng: random.Random) -> dict[str, Any]:
    """Qwen3.5-MoE."""
    return _delta_net(rng, "qwen3_5_moe_text") | _experts(rng)


def olmo_hybrid(rng: random.Random) -> dict[str, Any]:
    """OLMo-Hybrid: norms in other places for each kind of layer, with a rotary embedding or, as released, without."""
    raw = _delta_net(rng, "olmo_hybrid") | {"linear_allow_neg_eigval": rng.random() < 0.7, "pad_token_id": None}
    del raw["partial_rotary_factor"]
    return raw | {"rope_parameters": {"rope_type": "default", "rope_theta": rng.choice([None, 10000.0])}}


def nemotron_h(rng: random.Random) -> dict[str, Any]:
    """Nemotron-H: one mixer a layer, Mamba-2, attention, an MLP or experts, perhaps in a smaller space."""
    groups, heads = rng.choice([(1, 2), (2, 4), (1, 3)])
    kinds = rng.choice([[LINEAR, "mlp", FULL, "moe"], [FULL, "moe", LINEAR], [LINEAR, "moe", FULL]])
    return _common(rng, "nemotron_h") | {
        "layers_block_type": kinds, "head_dim": rng.choice([8, 16]), "mamba_num_heads": heads,
        "mamba_head_dim": rng.choice([8, 16]), "ssm_state_size": rng.choice([8, 16]), "n_groups": groups,
        "chunk_size": rng.choice([16, 32]), "use_bias": rng.random() < 0.3, "mlp_bias": rng.random() < 0.3,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": rng.choice([8, 24]),
        "moe_shared_expert_intermediate_size": 24, "moe_latent_size": rng.choice([None, 16]),
        "attention_dropout": rng.choice([0.0, 0.1]), "norm_topk_prob": rng.random() < 0.6,
    }  # fmt: skip


def zamba2(rng: random.Random) -> dict[str, Any]:
    """Zamba2: one or two transformer blocks that stand at several places, with adapters for each."""
    kinds = rng.choice([[HYBRID, LINEAR, HYBRID], [LINEAR, HYBRID, HYBRID, HYBRID], [LINEAR, HYBRID]])
    raw = _common(rng, "zamba2") | {
        "num_hidden_layers": len(kinds), "layers_block_type": kinds, "tie_word_embeddings": True,
        "n_mamba_heads": 2, "mamba_ngroups": rng.choice([1, 2]), "mamba_d_state": 8, "mamba_d_conv": rng.choice([2, 4]),
        "num_mem_blocks": rng.choice([1, 2]), "adapter_rank": 6, "chunk_size": rng.choice([16, 32]),
        "use_shared_attention_adapter": rng.random() < 0.5, "use_mem_rope": rng.random() < 0.5,
        "add_bias_linear": rng.random() < 0.3, "attention_dropout": rng.choice([0.0, 0.1]),
    }  # fmt: skip
    return raw | {"num_key_value_heads": raw["num_attention_heads"]}


def falcon_h1(rng: random.Random) -> dict[str, Any]:
    """Falcon-H1: Mamba-2 and attention side by side, numbers before and after each, a gated norm or none."""
    heads = rng.choice([2, 4])
    return _common(rng, "falcon_h1") | {
        "num_hidden_layers": rng.choice([1, 2]), "head_dim": rng.choice([8, 16]), "mamba_n_heads": heads,
        "mamba_d_ssm": heads * 16, "mamba_d_head": 16, "mamba_n_groups": rng.choice([1, 2]), "mamba_d_state": 8,
        "mamba_d_conv": rng.choice([2, 4]), "mamba_chunk_size": rng.choice([16, 32]),
        "mamba_rms_norm": rng.random() < 0.5, "mamba_norm_before_gate": rng.random() < 0.3,
        "mamba_conv_bias": rng.random() < 0.7, "mamba_proj_bias": rng.random() < 0.3, "mlp_bias": rng.random() < 0.3,
        "projectors_bias": rng.random() < 0.3, "attention_bias": rng.random() < 0.3,
        "attention_dropout": rng.choice([0.0, 0.1]),
    }  # fmt: skip


def minimax(rng: random.Random) -> dict[str, Any]:
    """MiniMax-Text: lightning attention in blocks of tokens, experts in every layer."""
    experts = rng.choice([4, 5])
    return _common(rng, "minimax") | _layers(rng, LINEAR) | {
        "head_dim": rng.choice([8, 16]), "block_size": rng.choice([8, 16, 256]), "num_local_experts": experts,
        "num_experts_per_tok": rng.choice([1, 2]), "attention_dropout": rng.choice([0.0, 0.1]),
    }  # fmt: skip


def recurrent_gemma(rng: random.Random) -> dict[str, Any]:
    """RecurrentGemma: linear recurrences, attention with a window in some layers."""
    raw = _common(rng, "recurrent_gemma")
    heads = raw["num_attention_heads"]
    blocks = rng.choice(
        [["recurrent", "attention"], ["attention", "recurrent"], ["recurrent", "recurrent", "attention"]]
    )
    return raw | {
        "num_hidden_layers": rng.choice([2, 3]) if len(blocks) == 2 else 3, "block_types": blocks,
        "hidden_size": heads * 16, "lru_width": rng.choice([None, heads * 16]), "conv1d_width": rng.choice([2, 4]),
        "attention_window_size": rng.choice([8, 30, 200]), "attention_dropout": rng.choice([0.0, 0.1]),
    }  # fmt: skip


def zamba(rng: random.Random) -> dict[str, Any]:
    """Zamba: one transformer block that stands at several places (at one the class fails), Mamba-1 in heads."""
    kinds = rng.choice([[HYBRID, LINEAR, HYBRID], [LINEAR, HYBRID, HYBRID]])
    raw = _common(rng, "zamba")
    return raw | {
        "num_hidden_layers": len(kinds), "layers_block_type": kinds, "tie_word_embeddings": True,
        "n_mamba_heads": rng.choice([1, 2]), "mamba_d_state": rng.choice([5, 8]), "mamba_d_conv": rng.choice([2, 4]),
        "mamba_proj_bias": rng.random() < 0.3, "mamba_conv_bias": rng.random() < 0.7,
        "attention_dropout": rng.choice([0.0, 0.1]),
    }  # fmt: skip


def kimi_linear(rng: random.Random) -> dict[str, Any]:
    """Kimi-Linear: a decay for each channel of a head, latent attention without positions, experts in groups."""
    groups = rng.choice([1, 2])
    kinds = rng.choice([[LINEAR, FULL], [FULL, LINEAR]])
    raw = _common(rng, "kimi_linear") | {
        "num_hidden_layers": len(kinds), "layer_types": kinds,
        "n_group": groups, "topk_group": 1, "num_experts": groups * rng.choice([2, 3]), "num_shared_experts": 1,
        "num_experts_per_token": rng.choice([1, 2]), "moe_intermediate_size": rng.choice([8, 24]),
        "first_k_dense_replace": rng.choice([0, 1]), "norm_topk_prob": rng.random() < 0.6,
        "kv_lora_rank": rng.choice([8, 18]), "q_lora_rank": rng.choice([None, 16]), "qk_rope_head_dim": 8,
        "qk_nope_head_dim": rng.choice([8, 24]), "v_head_dim": rng.choice([8, 20]), "linear_num_heads": 2,
        "linear_head_dim": rng.choice([8, 12]), "linear_conv_kernel_dim": rng.choice([2, 4]),
        "attention_bias": rng.random() < 0.3, "attention_dropout": rng.choice([0.0, 0.1]), "pad_token_id": None,
        "hidden_act": "silu",
    }  # fmt: skip
    return raw | {"num_key_value_heads": raw["num_attention_heads"], "tie_word_embeddings": False}


CONFIGS = {
    "lfm2": lfm2,
    "lfm2_moe": lfm2_moe,
    "lfm3": lfm3,
    "qwen3_next": qwen3_next,
    "qwen3_5_text": qwen3_5_text,
    "qwen3_5_moe_text": qwen3_5_moe_text,
    "olmo_hybrid": olmo_hybrid,
    "nemotron_h": nemotron_h,
    "zamba": zamba,
    "zamba2": zamba2,
    "falcon_h1": falcon_h1,
    "minimax": minimax,
    "recurrent_gemma": recurrent_gemma,
    "kimi_linear": kimi_linear,
}


def deep(name: str, layers: int) -> dict[str, Any]:
    """A config of a family with many layers, attention in every fourth."""
    raw = CONFIGS[name](random.Random(name))
    if "layers_block_type" in raw:
        kinds = [*raw["layers_block_type"]] * layers
        depth = {"num_hidden_layers": layers} if "num_hidden_layers" in raw else {}
        return raw | {"layers_block_type": kinds[:layers], **depth}
    if "layer_types" not in raw:
        return raw | {"num_hidden_layers": layers}
    other = next(kind for kind in raw["layer_types"] if kind != FULL)
    kinds = [FULL if index % 4 == 3 else other for index in range(layers)]
    return raw | {"num_hidden_layers": layers, "layer_types": kinds}
