"""Tiny configs of Gemma 4 and Gemma 3n, for the grid of jobs on which the tape must equal the trace."""

from __future__ import annotations

import random
from typing import Any

FULL, SLIDING = "full_attention", "sliding_attention"
KINDS = ([SLIDING, FULL], [SLIDING, SLIDING, FULL], [FULL, SLIDING, FULL], [SLIDING, FULL, SLIDING, FULL])
SHARED = ([SLIDING, FULL, FULL], [SLIDING, FULL, SLIDING, FULL], [FULL, SLIDING, SLIDING, FULL])


def _common(rng: random.Random, model_type: str) -> dict[str, Any]:
    heads = rng.choice([2, 4])
    return {
        "model_type": model_type, "vocab_size": rng.choice([64, 515]), "hidden_size": heads * rng.choice([8, 16, 20]),
        "num_attention_heads": heads, "num_key_value_heads": rng.choice([1, 2]), "head_dim": rng.choice([8, 16]),
        "max_position_embeddings": 128, "sliding_window": rng.choice([8, 30, 100]), "pad_token_id": 0,
        "attention_bias": rng.random() < 0.3, "attention_dropout": rng.choice([0.0, 0.1]),
        "tie_word_embeddings": rng.random() < 0.6, "vocab_size_per_layer_input": rng.choice([64, 515]),
        "final_logit_softcapping": rng.choice([None, 30.0]),
    }  # fmt: skip


def gemma4_text(rng: random.Random) -> dict[str, Any]:
    """Gemma 4: heads of two sizes, inputs per layer, keys that are shared or serve as values, experts."""
    raw = _common(rng, "gemma4_text") | {
        "intermediate_size": rng.choice([24, 72]), "global_head_dim": rng.choice([16, 24]),
        "num_global_key_value_heads": rng.choice([None, 1]), "attention_k_eq_v": rng.random() < 0.4,
        "hidden_size_per_layer_input": rng.choice([0, 8, 12]), "use_double_wide_mlp": rng.random() < 0.4,
        "use_bidirectional_attention": rng.choice([None, "vision"]),
    }  # fmt: skip
    kinds, shared = rng.choice(KINDS), 0
    if raw["hidden_size_per_layer_input"] and rng.random() < 0.7:
        kinds = rng.choice(SHARED)
        shared = rng.choice([1, len(kinds) - 2])
    if rng.random() < 0.4:
        raw |= {
            "enable_moe_block": True, "num_experts": rng.choice([4, 5]), "top_k_experts": rng.choice([1, 2]),
            "moe_intermediate_size": rng.choice([8, 24]),
        }  # fmt: skip
    return raw | {"layer_types": kinds, "num_hidden_layers": len(kinds), "num_kv_shared_layers": shared}


def gemma4(rng: random.Random) -> dict[str, Any]:
    """Gemma 4 with its vision tower."""
    heads = rng.choice([2, 3])
    vision = {
        "hidden_size": heads * 16, "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": 16,
        "global_head_dim": 16, "num_hidden_layers": 2, "intermediate_size": 24, "patch_size": 4,
        "position_embedding_size": 64, "use_clipped_linears": rng.random() < 0.5, "standardize": rng.random() < 0.5,
    }  # fmt: skip
    text = gemma4_text(rng)
    return {
        "model_type": "gemma4", "text_config": text, "vision_config": vision, "audio_config": None,
        "tie_word_embeddings": text["tie_word_embeddings"], "image_token_id": 60, "video_token_id": 61,
        "audio_token_id": 62,
    }  # fmt: skip


def gemma3n_text(rng: random.Random) -> dict[str, Any]:
    """Gemma 3n: several inputs a layer, MLPs of different widths, some of them sparse, keys that are shared."""
    kinds = rng.choice(SHARED)
    layers, shared = len(kinds), rng.choice([1, len(kinds) - 2])
    return _common(rng, "gemma3n_text") | {
        "layer_types": kinds, "num_hidden_layers": layers, "num_kv_shared_layers": shared,
        "intermediate_size": [rng.choice([24, 72]) for _ in kinds], "hidden_size_per_layer_input": rng.choice([8, 12]),
        "altup_num_inputs": rng.choice([2, 3, 4]), "laurel_rank": 4, "altup_active_idx": rng.choice([0, 1]),
        "altup_correct_scale": rng.random() < 0.7,
        "activation_sparsity_pattern": [rng.choice([0.0, 0.9]) for _ in kinds],
        "final_logit_softcapping": 30.0,
    }  # fmt: skip


def gemma3n(rng: random.Random) -> dict[str, Any]:
    """Gemma 3n with an audio tower; its vision tower is another library's, and not there."""
    text = gemma3n_text(rng)
    rows = text["vocab_size"]
    audio = {
        "hidden_size": 32, "conf_num_attention_heads": 2, "conf_num_hidden_layers": 1, "input_feat_size": 16,
        "sscp_conv_channel_size": [4, 4], "vocab_offset": rows - 8, "vocab_size": 8,
    }  # fmt: skip
    vision = {"hidden_size": 24, "vocab_offset": rows - 16, "vocab_size": 8}
    return {
        "model_type": "gemma3n", "text_config": text, "audio_config": audio, "vision_config": vision,
        "tie_word_embeddings": text["tie_word_embeddings"],
    }  # fmt: skip


CONFIGS = {"gemma3n": gemma3n, "gemma4_text": gemma4_text, "gemma4": gemma4, "gemma3n_text": gemma3n_text}


def deep(name: str, layers: int) -> dict[str, Any]:
    """A config of a family with many layers, full attention in every other, the last two without keys of their own."""
    raw = CONFIGS[name](random.Random(name))
    kinds = [FULL if index % 2 else SLIDING for index in range(layers - 1)] + [FULL]
    changes = {"layer_types": kinds, "num_hidden_layers": layers, "num_kv_shared_layers": 2}
    text = raw.get("text_config", raw) | changes | {"hidden_size_per_layer_input": 8}
    if "altup_num_inputs" in text:  # whose lists are as long as the layers are many
        text |= {"intermediate_size": 24, "activation_sparsity_pattern": [0.0] * layers}
    return raw | {"text_config": text} if "text_config" in raw else text
