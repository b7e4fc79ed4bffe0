"""Gemma 3n: a decoder with embeddings per layer, AltUp and LAuReL, and towers for images and sound.

Class defaults and structure: transformers 5.23, models/gemma3n. The vision tower, a MobileNet-V5 from the timm
library, is not built by transformers itself and not counted here; its bridge to the decoder is.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module, Part, Stack
from oomph.blocks.basic import Embedding, Linear, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.shared_kv import SharedKVAttention
from oomph.config import MAX_DEPTH, Config
from oomph.families.common import causal_lm
from oomph.families.layer_types import FULL, SLIDING, full_after_sliding, listed, windows
from oomph.families.moe_layers import by_kind
from oomph.families.multimodal import compose, projector, section, text_model, tied_head
from oomph.families.tower_defaults import DEFAULTS
from oomph.families.towers import tower, typed_tower
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "gemma3n": {"tie_word_embeddings": True},
    "gemma3n_text": {
        "vocab_size": 262400, "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 35,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256, "attention_bias": False,
        "vocab_size_per_layer_input": 262144, "hidden_size_per_layer_input": 256, "altup_num_inputs": 4,
        "num_kv_shared_layers": 15, "laurel_rank": 64, "max_position_embeddings": 32768, "sliding_window": 512,
        "tie_word_embeddings": True,
    },
}  # fmt: skip

INTERVAL = 5  # without layer_types every fifth layer is full

# The published totals of gemma-3n-E2B-it and E4B-it leave the same rest for it.
NOT_COUNTED = (
    "The vision tower (MobileNet-V5, from the timm library) is not counted; in the published checkpoints it has "
    "294,126,912 parameters."
)


def build(config: Config) -> Model:
    """Return the decoder, with the audio tower and both bridges unless it is the text model alone."""
    if config.model_type == "gemma3n_text":
        return decoder(config)
    text = text_model(config, "gemma3n_text", fixed=True)
    audio = typed_tower(section(config, "audio_config"), "gemma3n_audio", fixed=True)
    vision = config.sub("vision_config", DEFAULTS["gemma3n_vision"])
    towers = {
        "model.audio_tower": tower(audio),
        "model.embed_vision": bridge(vision, text.hidden_size),
        "model.embed_audio": bridge(audio, text.hidden_size),
    }
    tied = tied_head(config, text, forwarded=False)
    return compose(config, text, towers, tied=tied, notes=(NOT_COUNTED,))


def bridge(tower_config: Config, hidden: int) -> Module:
    """Return the map of a tower's features, and of its few tokens' embeddings, onto the decoder."""
    width = tower_config.int("hidden_size")
    return projector(
        embedding=Embedding(tower_config.int("vocab_size"), width),
        hard_embedding_norm=Norm(width),
        soft_embedding_norm=Norm(width),
        embedding_projection=Linear(width, hidden),
    )


def decoder(config: Config) -> Model:
    """Return the text model: the last layers reuse the keys and values of earlier ones, so have no maps for them."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    per_layer, inputs = config.int("hidden_size_per_layer_input"), config.int("altup_num_inputs", high=MAX_DEPTH)
    first_shared = depth - config.int("num_kv_shared_layers", 0, depth)
    types = listed(config, depth, allowed=(SLIDING, FULL)) or full_after_sliding(depth, INTERVAL)
    places, unplayed = windows(config, types)
    kinds = [
        (ffn, i >= first_shared, None if i >= first_shared else window)
        for i, (ffn, window) in enumerate(zip(ffn_sizes(config, depth), places, strict=True))
    ]
    layers = by_kind(kinds, lambda kind: layer(config, hidden, *kind))
    square = Stack.of(Linear(hidden, hidden), inputs - 1)
    extra: dict[str, Part] = {
        "model.embed_tokens_per_layer": Embedding(
            config.int("vocab_size_per_layer_input"), depth * per_layer, kind="embedding_per_layer"
        ),
        "model.per_layer_model_projection": Linear(hidden, depth * per_layer),
        "model.per_layer_projection_norm": Norm(per_layer),
        "model.altup_projections": square,
        "model.altup_unembed_projections": square,
    }
    return causal_lm(config, layers, Norm(hidden), extra=extra, unplayed=unplayed)


def ffn_sizes(config: Config, depth: int) -> list[int]:
    """Return the ffn width of each layer: one for all, or one each."""
    if isinstance(config.get("intermediate_size"), (list, tuple)):
        config.layer_list("intermediate_size", depth)
        return config.ints("intermediate_size", low=1) or []
    return [config.int("intermediate_size")] * depth


def layer(config: Config, hidden: int, ffn: int, shared: bool, window: int | None) -> Module:
    """Return one layer: attention and MLP inside AltUp, LAuReL beside them, the per-layer input after."""
    per_layer, inputs = config.int("hidden_size_per_layer_input"), config.int("altup_num_inputs", high=MAX_DEPTH)
    rank = config.int("laurel_rank")
    altup: dict[str, Part] = {
        "correct_output_scale": Tensor((hidden,), "param"),
        "correction_coefs": Linear(inputs, inputs),
        "prediction_coefs": Linear(inputs, inputs**2),
        "modality_router": Linear(hidden, inputs),
        "router_norm": Norm(hidden),
    }
    laurel = {
        "linear_left": Linear(hidden, rank),
        "linear_right": Linear(rank, hidden),
        "post_laurel_norm": Norm(hidden),
    }
    return Module(
        {
            "self_attn": attention(config, hidden, shared, window),
            "mlp": GatedMLP(hidden, ffn),
            "input_layernorm": Norm(hidden),
            "post_attention_layernorm": Norm(hidden),
            "pre_feedforward_layernorm": Norm(hidden),
            "post_feedforward_layernorm": Norm(hidden),
            "altup": Module(altup),
            "laurel": Module(laurel),
            "per_layer_input_gate": Linear(hidden, per_layer),
            "per_layer_projection": Linear(per_layer, hidden),
            "post_per_layer_input_norm": Norm(hidden),
        }
    )


def attention(config: Config, hidden: int, shared: bool, window: int | None) -> Attention | SharedKVAttention:
    """Return the attention, or the half of it that a layer reusing keys and values keeps."""
    heads, size = config.int("num_attention_heads"), config.int("head_dim")
    bias, norm = config.bool("attention_bias"), Norm(size)
    if shared:
        return SharedKVAttention(hidden, heads, size, bias, norm)
    kv_heads = config.int("num_key_value_heads")
    return Attention(
        hidden, heads, kv_heads, size, qkv_bias=bias, out_bias=bias, q_norm=norm, k_norm=norm, sliding_window=window
    )
