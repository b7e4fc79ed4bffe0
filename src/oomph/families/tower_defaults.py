"""What the configuration classes of vision and audio towers take for an absent key (transformers 5.23).

Keyed by the tower's model_type. `ALIASES` has other spellings found in files: the class's attribute_map, and
for Kimi and Step the names of the code published with the weights.
"""

from __future__ import annotations

from typing import Any

_QWEN2_5: dict[str, Any] = {
    "depth": 32, "hidden_size": 3584, "intermediate_size": 3420, "num_heads": 16, "in_channels": 3,
    "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 3584,
    "window_size": 112, "fullatt_block_indexes": (7, 15, 23, 31),
}  # fmt: skip
_QWEN3_5: dict[str, Any] = {
    "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "in_channels": 3,
    "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
}  # fmt: skip
_QWEN3: dict[str, Any] = {**_QWEN3_5, "deepstack_visual_indexes": (8, 16, 24)}
_GLM: dict[str, Any] = {
    "depth": 24, "hidden_size": 1536, "attention_bias": False, "num_heads": 12, "in_channels": 3,
    "image_size": 336, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    "out_hidden_size": 4096, "intermediate_size": 13696,
}  # fmt: skip
_IDEFICS: dict[str, Any] = {
    "hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16,
    "num_channels": 3, "image_size": 224, "patch_size": 32,
}  # fmt: skip
_WHISPER: dict[str, Any] = {
    "num_mel_bins": 128, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
    "d_model": 1280, "max_source_positions": 1500,
}  # fmt: skip

DEFAULTS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 224, "patch_size": 32,
    },
    "siglip_vision_model": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 224, "patch_size": 16, "vision_use_head": True,
    },
    "siglip2_vision_model": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "patch_size": 16, "vision_use_head": True, "num_patches": 256,
    },
    "idefics3_vision": _IDEFICS,
    "smolvlm_vision": _IDEFICS,
    "pixtral": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
        "num_channels": 3, "patch_size": 16, "image_size": 1024,
    },
    "internvl_vision": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "attention_bias": False,
        "use_qk_norm": False, "intermediate_size": 4096, "norm_type": "layer_norm", "image_size": (448, 448),
        "patch_size": (14, 14), "num_channels": 3, "use_mask_token": False,
        "use_absolute_position_embeddings": True, "use_mean_pooling": True,
    },
    "llama4_vision_model": {
        "hidden_size": 768, "num_hidden_layers": 34, "num_attention_heads": 16, "num_channels": 3,
        "intermediate_size": 5632, "vision_output_dim": 7680, "image_size": 448, "patch_size": 14,
        "projector_input_dim": 4096, "projector_output_dim": 4096, "pixel_shuffle_ratio": 0.5,
    },
    "mllama_vision_model": {
        "hidden_size": 1280, "num_hidden_layers": 32, "num_global_layers": 8, "num_attention_heads": 16,
        "num_channels": 3, "intermediate_size": 5120, "vision_output_dim": 7680, "image_size": 448,
        "patch_size": 14, "max_num_tiles": 4,
    },
    "qwen2_vl_vision": {
        "depth": 32, "embed_dim": 1280, "hidden_size": 3584, "mlp_ratio": 4, "num_heads": 16, "in_channels": 3,
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    },
    "qwen2_5_vl_vision": _QWEN2_5,
    "qwen2_5_omni_vision_encoder": _QWEN2_5,
    "qwen3_vl_vision": _QWEN3,
    "qwen3_vl_moe_vision": _QWEN3,
    "qwen3_omni_moe_vision_encoder": _QWEN3,
    "qwen3_5_vision": _QWEN3_5,
    "qwen3_5_moe_vision": _QWEN3_5,
    "glm4v_vision": _GLM,
    "glm4v_moe_vision": _GLM,
    "kimi_k25_vision": {
        "patch_size": 14, "pos_emb_height": 64, "pos_emb_width": 64, "pos_emb_time": 4, "num_attention_heads": 16,
        "num_hidden_layers": 27, "hidden_size": 1152, "intermediate_size": 4304, "merge_kernel_size": (2, 2),
    },
    "minimax_m3_vl_vision": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
        "num_channels": 3, "patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2,
    },
    "step3p5_vision": {
        "hidden_size": 1536, "num_hidden_layers": 47, "num_attention_heads": 16, "num_channels": 3,
        "image_size": 728, "patch_size": 14, "mlp_ratio": 8960 / 1536,
    },
    "gemma4_vision": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16, "num_attention_heads": 12,
        "num_key_value_heads": 12, "head_dim": 64, "patch_size": 16, "position_embedding_size": 10240,
        "use_clipped_linears": False, "standardize": False,
    },
    "gemma4_audio": {
        "hidden_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 8,
        "subsampling_conv_channels": (128, 32), "conv_kernel_size": 5, "use_clipped_linears": True,
        "output_proj_dims": 1536,
    },
    "gemma3n_vision": {"hidden_size": 2048, "vocab_size": 128},
    "gemma3n_audio": {
        "vocab_size": 128, "input_feat_size": 128, "hidden_size": 1536, "conf_num_attention_heads": 8,
        "conf_num_hidden_layers": 12, "conf_conv_kernel_size": 5, "sscp_conv_channel_size": (128, 32),
        "sscp_conv_kernel_size": ((3, 3), (3, 3)), "sscp_conv_stride_size": ((2, 2), (2, 2)),
        "conf_attention_chunk_size": 12, "conf_attention_context_left": 13, "conf_attention_context_right": 0,
    },
    "qwen2_audio_encoder": _WHISPER,
    "qwen2_5_omni_audio_encoder": {**_WHISPER, "output_dim": 3584},
    "voxtral_encoder": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
        "num_mel_bins": 128, "max_source_positions": 1500,
    },
    "qwen3_omni_moe_audio_encoder": {**_WHISPER, "output_dim": 3584, "downsample_hidden_size": 480},
}  # fmt: skip

_DEPTH: dict[str, tuple[str, ...]] = {"depth": ("num_hidden_layers",), "num_heads": ("num_attention_heads",)}
_WHISPER_NAMES: dict[str, tuple[str, ...]] = {
    "d_model": ("hidden_size",), "encoder_layers": ("num_hidden_layers",),
    "encoder_attention_heads": ("num_attention_heads",), "encoder_ffn_dim": ("intermediate_size",),
}  # fmt: skip

ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "mllama_vision_model": {"num_attention_heads": ("attention_heads",)},
    **{
        name: _DEPTH
        for name in DEFAULTS
        if name.startswith(("qwen", "glm")) and "audio" not in name
    },
    **{name: _WHISPER_NAMES for name in DEFAULTS if name.startswith("qwen") and "audio" in name},
    "voxtral_encoder": {
        "hidden_size": ("d_model",), "num_hidden_layers": ("encoder_layers",),
        "num_attention_heads": ("encoder_attention_heads",), "intermediate_size": ("encoder_ffn_dim",),
        "layerdrop": ("encoder_layerdrop",),
    },
    "kimi_k25_vision": {
        "pos_emb_height": ("init_pos_emb_height",), "pos_emb_width": ("init_pos_emb_width",),
        "pos_emb_time": ("init_pos_emb_time",),
        "num_attention_heads": ("vt_num_attention_heads",), "num_hidden_layers": ("vt_num_hidden_layers",),
        "hidden_size": ("vt_hidden_size",), "intermediate_size": ("vt_intermediate_size",),
    },
    "step3p5_vision": {
        "hidden_size": ("width",), "num_hidden_layers": ("layers",), "num_attention_heads": ("heads",),
    },
}  # fmt: skip
