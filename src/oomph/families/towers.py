"""From a nested vision or audio config to its tower.

`DEFAULTS` and `ALIASES` are keyed by the tower's own model_type, as TYPES of a family is. Class defaults and
structure: transformers 5.23, the models named by the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from oomph.blocks.audio import Gemma4Audio, Qwen3OmniAudio, UniversalSpeech, WhisperEncoder
from oomph.blocks.base import Block
from oomph.blocks.vision import ClipVision, IdeficsVision, InternVision, Llama4Vision, MllamaVision
from oomph.blocks.vision_gemma import Gemma4Vision
from oomph.blocks.vision_native import (
    OMNI_MERGERS,
    GlmVision,
    MinimaxVision,
    MoonVision,
    PixtralVision,
    Qwen3Vision,
    QwenVision,
    StepVision,
)
from oomph.config import MAX_DEPTH, Config
from oomph.errors import UnsupportedError, close_matches
from oomph.families.tower_defaults import ALIASES, DEFAULTS


def pair(config: Config, key: str) -> tuple[int, int]:
    """Return two sizes, one written for both."""
    if not isinstance(config.get(key), (list, tuple)):
        return config.int(key), config.int(key)
    return two(config, key)


def two(config: Config, key: str) -> tuple[int, int]:
    """Return a list of exactly two sizes."""
    values = config.ints(key, low=1) or []
    if len(values) != 2:
        raise config.error(key, f"has {len(values)} entries, not 2")
    return values[0], values[1]


def scaled(config: Config, size: int, key: str) -> int:
    """Return size · ratio, cut to a whole number as the classes do."""
    ratio = config.float(key)
    if not 0 < ratio * size < 2**31:
        raise config.error(key, "is not a usable ratio")
    return int(size * ratio)


def even_heads(config: Config, key: str = "num_attention_heads", width: str = "hidden_size") -> int:
    """Return the number of heads, which must share the width evenly."""
    heads = config.int(key)
    config.divide(config.int(width), heads, "attention heads")
    return heads


def clip(config: Config) -> Block:
    """CLIP."""
    return ClipVision(*_vit(config), *_images(config), config.int("num_channels"), **_acts(config, "quick_gelu"))


def siglip(config: Config) -> Block:
    """SigLIP, with its pooling head unless told otherwise."""
    head = config.bool("vision_use_head", default=True)
    return ClipVision(
        *_vit(config), *_images(config), config.int("num_channels"), False, head, **_acts(config), norms_first=True
    )


def siglip2(config: Config) -> Block:
    """SigLIP 2 for images at their own size."""
    head, patch, count = config.bool("vision_use_head", True), config.int("patch_size"), config.int("num_patches")
    return ClipVision(*_vit(config), 0, patch, config.int("num_channels"), False, head, count, norms_first=True)


def idefics3(config: Config) -> Block:
    """SigLIP without a head."""
    return IdeficsVision(
        *_vit(config), *_images(config), config.int("num_channels"), class_token=False, **_acts(config)
    )


def _vit(config: Config) -> tuple[int, int, int, int]:
    hidden, ffn, depth = config.int("hidden_size"), config.int("intermediate_size"), config.depth("num_hidden_layers")
    return hidden, ffn, depth, even_heads(config)


def _acts(config: Config, activation: str = "gelu_pytorch_tanh") -> dict[str, Any]:
    return {"activation": config.str("hidden_act", activation), "dropout": config.rate("attention_dropout", 0.0)}


def _images(config: Config) -> tuple[int, int]:
    return config.int("image_size"), config.int("patch_size")


def pixtral(config: Config) -> Block:
    """Pixtral; head_dim is hidden / heads whatever the file says, as in the class."""
    sizes = config.int("patch_size"), config.int("num_channels"), max(pair(config, "image_size"))
    return PixtralVision(*_vit(config), *sizes, **_acts(config, "gelu"))


def intern(config: Config) -> Block:
    """InternViT."""
    return InternVision(
        *_vit(config),
        pair(config, "image_size"),
        pair(config, "patch_size"),
        config.int("num_channels"),
        qkv_bias=config.bool("attention_bias"),
        qk_norm=config.bool("use_qk_norm"),
        rms_norm=config.str("norm_type") == "rms_norm",
        mask_token=config.bool("use_mask_token"),
        positions=config.bool("use_absolute_position_embeddings"),
        final_norm=not config.bool("use_mean_pooling"),
        **_acts(config, "gelu"),
        other_dropout=max(
            config.rate(f"{what}_dropout{of}", 0.0) for what, of in (("hidden", "_prob"), ("projection", ""))
        ),
    )


def llama4(config: Config) -> Block:
    """Llama 4."""
    adapter = config.int("projector_input_dim"), config.int("projector_output_dim")
    return Llama4Vision(
        *_vit(config), *_images(config), *adapter, config.int("num_channels"), config.float("pixel_shuffle_ratio"),
        config.rate("attention_dropout", 0.0), config.rate("projector_dropout", 0.0),
    )  # fmt: skip


def mllama(config: Config) -> Block:
    """Llama 3.2 Vision."""
    ratios = config.list("supported_aspect_ratios")
    hidden, ffn, layers, heads = _vit(config)
    return MllamaVision(
        hidden, ffn, layers, config.int("num_global_layers", 0, MAX_DEPTH), heads, *_images(config),
        config.int("max_num_tiles"), len(MLLAMA_RATIOS if ratios is None else ratios), config.int("num_channels"),
        activation=config.str("hidden_act", "gelu"), taken=_taken(config, layers),
    )  # fmt: skip


def _taken(config: Config, layers: int) -> tuple[int, ...]:
    """Return the layers whose states are handed on beside the last one, counted from 0."""
    listed = config.ints("intermediate_layers_indices", high=layers - 1)
    return MLLAMA_TAKEN if listed is None else tuple(listed)


# What MllamaVisionConfig takes when supported_aspect_ratios is null: tiles across and down, up to four.
MLLAMA_RATIOS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
MLLAMA_TAKEN = (3, 7, 15, 23, 30)  # and where intermediate_layers_indices is null


def _patches(config: Config) -> tuple[int, int, int]:
    return config.int("patch_size"), config.int("temporal_patch_size"), config.int("spatial_merge_size")


def qwen2_vl(config: Config) -> Block:
    """Qwen2-VL: embed_dim is the tower's width, hidden_size the text model's."""
    width = config.int("embed_dim")
    return QwenVision(
        width, scaled(config, width, "mlp_ratio"), config.depth("depth"),
        even_heads(config, "num_heads", "embed_dim"), config.int("hidden_size"), *_patches(config),
        config.int("in_channels"), gated=False, activation=config.str("hidden_act", "quick_gelu"),
    )  # fmt: skip


def _qwen(config: Config) -> tuple[int, int, int, int, int, int, int, int]:
    return (
        config.int("hidden_size"), config.int("intermediate_size"), config.depth("depth"),
        even_heads(config, "num_heads"), config.int("out_hidden_size"), *_patches(config),
    )  # fmt: skip


def qwen2_5_vl(config: Config) -> Block:
    """Qwen2.5-VL; the Omni model keeps q, k and v apart."""
    apart = config.model_type == "qwen2_5_omni_vision_encoder"
    return QwenVision(
        *_qwen(config), config.int("in_channels"), qkv=("q", "k", "v") if apart else ("qkv",),
        activation=config.str("hidden_act", "silu"), window=config.int("window_size"),
        full_layers=tuple(config.ints("fullatt_block_indexes") or ()),
    )  # fmt: skip


def qwen3_vl(config: Config) -> Block:
    """Qwen3-VL; Qwen3.5's has no deep mergers, Qwen3-Omni's other names."""
    deep = () if "qwen3_5" in config.model_type else tuple(config.ints("deepstack_visual_indexes") or ())
    omni = config.model_type == "qwen3_omni_moe_vision_encoder"
    return Qwen3Vision(
        *_qwen(config), config.int("num_position_embeddings"), deep, config.int("in_channels"),
        OMNI_MERGERS if omni else "deepstack_merger_list",
        ("ln_q", "mlp.0", "mlp.2") if omni else ("norm", "linear_fc1", "linear_fc2"),
        config.str("hidden_act", "gelu_pytorch_tanh"),
    )  # fmt: skip


def glm4v(config: Config) -> Block:
    """GLM-4V; intermediate_size is the merger's."""
    return GlmVision(
        config.int("hidden_size"), config.int("intermediate_size"), config.depth("depth"),
        even_heads(config, "num_heads"), config.int("out_hidden_size"), config.int("image_size"), *_patches(config),
        config.int("in_channels"), config.bool("attention_bias"),
    )  # fmt: skip


def kimi(config: Config) -> Block:
    """MoonViT."""
    grid = config.int("pos_emb_height"), config.int("pos_emb_width")
    patch = config.int("patch_size")
    return MoonVision(*_vit(config), (patch, patch), grid, config.int("pos_emb_time"))


def minimax(config: Config) -> Block:
    """MiniMax-M3."""
    frames = config.int("temporal_patch_size")
    return MinimaxVision(*_vit(config), config.int("patch_size"), frames, config.int("num_channels"))


def step3(config: Config) -> StepVision:
    """Step-3.7: the ffn width is always mlp_ratio · hidden."""
    hidden = config.int("hidden_size")
    return StepVision(
        hidden, scaled(config, hidden, "mlp_ratio"), config.depth("num_hidden_layers"),
        even_heads(config), *_images(config), config.int("num_channels"),
    )  # fmt: skip


def gemma4_vision(config: Config) -> Block:
    """Gemma 4's vision."""
    return Gemma4Vision(
        config.int("hidden_size"), config.int("intermediate_size"), config.depth("num_hidden_layers"),
        config.int("num_attention_heads"), config.int("num_key_value_heads"), config.int("head_dim"),
        config.int("patch_size"), config.int("position_embedding_size"),
        config.bool("use_clipped_linears"), config.bool("standardize"),
    )  # fmt: skip


def gemma4_audio(config: Config) -> Block:
    """Gemma 4's conformer."""
    return Gemma4Audio(
        config.int("hidden_size"), config.depth("num_hidden_layers"), even_heads(config),
        config.int("conv_kernel_size"), two(config, "subsampling_conv_channels"), config.int("output_proj_dims"),
        config.bool("use_clipped_linears"),
    )  # fmt: skip


def gemma3n_audio(config: Config) -> Block:
    """Gemma 3n's conformer."""
    kernels, strides = (_pairs(config, f"sscp_conv_{what}_size") for what in ("kernel", "stride"))
    chunk = config.int("conf_attention_chunk_size")
    left, right = (config.int(f"conf_attention_context_{side}", 0) for side in ("left", "right"))
    block = UniversalSpeech(
        config.int("hidden_size"), config.depth("conf_num_hidden_layers"),
        even_heads(config, "conf_num_attention_heads"), config.int("input_feat_size"),
        config.int("conf_conv_kernel_size"), two(config, "sscp_conv_channel_size"), kernels,
        (strides[0][1], strides[1][1]), (chunk, chunk + max(0, left - 1) + right),
    )  # fmt: skip
    if block.bins_left < 1:
        raise config.error("sscp_conv_kernel_size", "is wider than what it runs over")
    return block


def _pairs(config: Config, key: str) -> tuple[tuple[int, int], tuple[int, int]]:
    values = config.list(key) or []
    if len(values) != 2:
        raise config.error(key, f"has {len(values)} entries, not 2")
    first, last = (two(Config({key: value}, where=config.where, nested=True), key) for value in values)
    return first, last


def whisper(config: Config) -> Block:
    """Whisper's encoder as Qwen2-Audio and Qwen2.5-Omni have it."""
    out, pooled = config.optional_int("output_dim"), config.model_type == "qwen2_audio_encoder"
    return WhisperEncoder(*_whisper(config), out, pooled, **_whisper_acts(config))


def _whisper_acts(config: Config) -> dict[str, Any]:
    names = ("dropout", "activation_dropout", "attention_dropout")
    rates = [config.rate(name, 0.0) for name in names]
    return {"activation": config.str("activation_function", "gelu"), "rates": (rates[0], rates[1], rates[2])}


def _whisper(config: Config) -> tuple[int, int, int, int, int, int]:
    return (
        config.int("d_model"), config.int("encoder_ffn_dim"), config.depth("encoder_layers"),
        even_heads(config, "encoder_attention_heads", "d_model"), config.int("num_mel_bins"),
        config.int("max_source_positions"),
    )  # fmt: skip


def voxtral(config: Config) -> Block:
    """Whisper's encoder as Voxtral has it."""
    sizes = config.int("num_mel_bins"), config.int("max_source_positions")
    return WhisperEncoder(*_vit(config), *sizes, **_whisper_acts(config))


def qwen3_omni_audio(config: Config) -> Block:
    """Qwen3-Omni's audio encoder."""
    width, ffn, layers, heads, bins, positions = _whisper(config)
    channels, out = config.int("downsample_hidden_size"), config.int("output_dim")
    return Qwen3OmniAudio(width, ffn, layers, heads, bins, channels, out, positions)


BUILDERS: dict[str, Callable[[Config], Block]] = {
    "clip_vision_model": clip,
    "siglip_vision_model": siglip,
    "siglip2_vision_model": siglip2,
    "idefics3_vision": idefics3,
    "smolvlm_vision": idefics3,
    "pixtral": pixtral,
    "internvl_vision": intern,
    "llama4_vision_model": llama4,
    "mllama_vision_model": mllama,
    "qwen2_vl_vision": qwen2_vl,
    "qwen2_5_vl_vision": qwen2_5_vl,
    "qwen2_5_omni_vision_encoder": qwen2_5_vl,
    "qwen3_vl_vision": qwen3_vl,
    "qwen3_vl_moe_vision": qwen3_vl,
    "qwen3_omni_moe_vision_encoder": qwen3_vl,
    "qwen3_5_vision": qwen3_vl,
    "qwen3_5_moe_vision": qwen3_vl,
    "glm4v_vision": glm4v,
    "glm4v_moe_vision": glm4v,
    "kimi_k25_vision": kimi,
    "minimax_m3_vl_vision": minimax,
    "step3p5_vision": step3,
    "gemma4_vision": gemma4_vision,
    "gemma4_audio": gemma4_audio,
    "gemma3n_audio": gemma3n_audio,
    "qwen2_audio_encoder": whisper,
    "qwen2_5_omni_audio_encoder": whisper,
    "voxtral_encoder": voxtral,
    "qwen3_omni_moe_audio_encoder": qwen3_omni_audio,
}


def typed_tower(config: Config, default_type: str, *, fixed: bool = False) -> Config:
    """Return a tower's config with the defaults and aliases of its class, as `tower` reads it.

    `fixed`: the outer class builds `default_type` whatever model_type the file gives.
    """
    if not fixed and not isinstance(config.raw.get("model_type", ""), str):
        raise config.error("model_type", "is not a string")
    model_type = default_type if fixed else config.model_type or default_type
    if model_type not in BUILDERS:
        raise UnsupportedError(
            f"oomph does not know the tower {model_type[:80]!r} in {config.where}.",
            close_matches(model_type, BUILDERS) or "A folder or repository with weights is weighed from its headers.",
        )
    raw: Mapping[str, Any] = {**config.raw, "model_type": model_type}
    defaults = {**DEFAULTS[model_type], **config.defaults}
    return Config(raw, defaults, ALIASES.get(model_type), config.where, nested=True, assumed=config.assumed)


def tower(config: Config) -> Block:
    """Return the tower of a config that `typed_tower` gave."""
    return BUILDERS[config.model_type](config)
