"""Gemma 3n: a decoder with embeddings per layer, AltUp and LAuReL, and towers for images and sound.

Class defaults and structure: transformers 5.23, models/gemma3n. The vision tower, a MobileNet-V5 from the timm
library, is not built by transformers itself and not counted here; its bridge to the decoder is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.blocks.base import Block, Module, Part, Stack
from oomph.blocks.basic import BareNorm, Embedding, Linear
from oomph.blocks.mlp import SparseMLP
from oomph.blocks.shared_kv import SharedKVAttention, StoringAttention
from oomph.config import MAX_DEPTH, Config
from oomph.families.common import with_head
from oomph.families.gemma4 import activation, norm, per_layer_parts, storing, with_behind, with_extra
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

SOFTCAP = 30.0  # final_logit_softcapping of the configuration class
SPARSE = 10  # so many layers are sparse where the config does not say, if there are more
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
    bridges = {
        "model.embed_vision": bridge(vision, text.hidden_size),
        "model.embed_audio": bridge(audio, text.hidden_size),
    }
    towers: dict[str, Part] = {"model.audio_tower": tower(audio)}
    model = compose(config, text, towers, tied=tied_head(config, text, forwarded=False), notes=(NOT_COUNTED,))
    return with_behind(model, bridges)


def bridge(tower_config: Config, hidden: int) -> Module:
    """Return the map of a tower's features, and of its few tokens' embeddings, onto the decoder."""
    width = tower_config.int("hidden_size")
    return projector(
        embedding=Embedding(tower_config.int("vocab_size"), width, kind="embedding_of_senses"),
        hard_embedding_norm=norm(width),
        soft_embedding_norm=norm(width),
        embedding_projection=Linear(width, hidden),
        embedding_post_projection_norm=BareNorm("rms by power bare"),
    )


def decoder(config: Config) -> Model:
    """Return the text model: the last layers reuse the keys and values of earlier ones, so have no maps for them."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    per_layer, inputs = config.int("hidden_size_per_layer_input"), config.int("altup_num_inputs", high=MAX_DEPTH)
    first_shared = depth - config.int("num_kv_shared_layers", 0, depth)
    types = listed(config, depth, allowed=(SLIDING, FULL)) or full_after_sliding(depth, INTERVAL)
    places, unplayed = windows(config, types)
    if SLIDING not in types:
        unplayed = (*unplayed, "layers without a window")
    stores, sparse = storing(types, first_shared), sparse_layers(config, depth)
    kinds = list(
        zip(ffn_sizes(config, depth), sparse, [i >= first_shared for i in range(depth)], stores, places, strict=True)
    )
    layers = by_kind(kinds, lambda kind: layer(config, hidden, *kind))
    square = Stack.of(Linear(hidden, hidden), inputs - 1)
    extra: dict[str, Part] = {
        **per_layer_parts(config, hidden, depth, per_layer),
        "model.altup_projections": square,
        "model.altup_unembed_projections": square,
    }
    model = with_extra(config, [*layers], norm(hidden), extra, unplayed)
    return with_head(model, softcap=config.raw.get("final_logit_softcapping", SOFTCAP) is not None)


def sparse_layers(config: Config, depth: int) -> list[bool]:
    """Return in which layers only the largest values of the MLP's gate stay."""
    shares = config.layer_list("activation_sparsity_pattern", depth)
    if shares is None:
        return [depth > SPARSE and at < SPARSE for at in range(depth)]
    if any(not isinstance(share, (int, float)) or not 0 <= share < 1 for share in shares):
        raise config.error("activation_sparsity_pattern", "holds what is no share of values")
    return [share > 0 for share in shares]


def ffn_sizes(config: Config, depth: int) -> list[int]:
    """Return the ffn width of each layer: one for all, or one each."""
    if isinstance(config.get("intermediate_size"), (list, tuple)):
        config.layer_list("intermediate_size", depth)
        return config.ints("intermediate_size", low=1) or []
    return [config.int("intermediate_size")] * depth


@dataclass(frozen=True, eq=False)
class AltUpLayer(Module):
    """A layer of several inputs, of which the `active` one passes through it; `scales`: what it says of its own input
    is scaled.
    """

    active: int = 0
    scales: bool = True


def layer(
    config: Config, hidden: int, ffn: int, sparse: bool, shared: bool, stores: bool, window: int | None
) -> AltUpLayer:  # fmt: skip
    """Return one layer: attention and MLP inside AltUp, LAuReL beside them, the per-layer input after."""
    per_layer, inputs = config.int("hidden_size_per_layer_input"), config.int("altup_num_inputs", high=MAX_DEPTH)
    rank = config.int("laurel_rank")
    altup: dict[str, Part] = {
        "correct_output_scale": Tensor((hidden,), "param"),
        "correction_coefs": Linear(inputs, inputs),
        "prediction_coefs": Linear(inputs, inputs**2),
        "modality_router": Linear(hidden, inputs),
        "router_norm": norm(hidden),
    }
    laurel = {
        "linear_left": Linear(hidden, rank),
        "linear_right": Linear(rank, hidden),
        "post_laurel_norm": norm(hidden),
    }
    return AltUpLayer(
        {
            "self_attn": attention(config, hidden, shared, stores, window),
            "mlp": SparseMLP(hidden, ffn, activation=activation(config), sparse=sparse),
            "input_layernorm": norm(hidden),
            "post_attention_layernorm": norm(hidden),
            "pre_feedforward_layernorm": norm(hidden),
            "post_feedforward_layernorm": norm(hidden),
            "altup": Module(altup),
            "laurel": Module(laurel),
            "per_layer_input_gate": Linear(hidden, per_layer),
            "per_layer_projection": Linear(per_layer, hidden),
            "post_per_layer_input_norm": norm(hidden),
        },
        active=config.int("altup_active_idx", 0, inputs - 1) if config.has("altup_active_idx") else 0,
        scales=config.bool("altup_correct_scale", default=True),
    )


def attention(config: Config, hidden: int, shared: bool, stores: bool, window: int | None) -> Block:
    """Return the attention, or the half of it that a layer reusing keys and values keeps."""
    heads, size, rate = config.int("num_attention_heads"), config.int("head_dim"), config.rate("attention_dropout", 0.0)
    bias, each = config.bool("attention_bias"), norm(size)
    if shared:
        return SharedKVAttention(hidden, heads, size, bias, each, window, rate)
    return StoringAttention(
        hidden, heads, config.int("num_key_value_heads"), size, qkv_bias=bias, out_bias=bias, q_norm=each, k_norm=each,
        dropout=rate, sliding_window=window, stores=stores, values_last=True,
    )  # fmt: skip
