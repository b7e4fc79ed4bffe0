"""Gemma 4: sliding and full layers with heads of different size, experts beside a dense MLP, shared keys and values.

Class defaults and structure: transformers 5.23, models/gemma4.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module, Part, Parts, Stack
from oomph.blocks.basic import Embedding, Linear, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MixtureLayer, ScaledRouter, StackedExperts
from oomph.blocks.shared_kv import KeyAsValueAttention, SharedKVAttention, StoringAttention
from oomph.config import MAX_EXPERTS, Config
from oomph.errors import ConfigError, UnsupportedError
from oomph.families.common import causal_lm, with_head
from oomph.families.gemma import both_ways
from oomph.families.multimodal import compose, projector, text_model, tied_head
from oomph.families.towers import tower, typed_tower
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "gemma4": {"tie_word_embeddings": True},
    "gemma4_text": {
        "vocab_size": 262144, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 30,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "attention_bias": False,
        "vocab_size_per_layer_input": 262144, "hidden_size_per_layer_input": 256, "attention_k_eq_v": False,
        "num_kv_shared_layers": 0, "enable_moe_block": False, "use_double_wide_mlp": False, "sliding_window": 512,
        "max_position_embeddings": 131072, "tie_word_embeddings": True,
    },
}  # fmt: skip

GLOBAL_HEAD_DIM = 512  # what Gemma4TextConfig takes for an absent global_head_dim
EMBED = "model.embed_tokens"
BEHIND = ("model.audio_tower", "model.embed_vision", "model.embed_audio")  # the language model, in the class's order
FULL, SLIDING, EVERY = "full_attention", "sliding_attention", 6  # without layer_types every sixth layer is full


def build(config: Config) -> Model:
    """Return the decoder, with the towers whose configs are there unless it is the text model alone."""
    if config.model_type == "gemma4_text":
        return decoder(config)
    text = text_model(config, "gemma4_text", fixed=True)
    seeing: dict[str, Part] = {}
    behind: dict[str, Part] = {}
    for sense, width in (("vision", "hidden_size"), ("audio", "output_proj_dims")):
        if config.get(f"{sense}_config") is not None:
            nested = typed_tower(config.sub(f"{sense}_config"), f"gemma4_{sense}", fixed=True)
            (seeing if sense == "vision" else behind)[f"model.{sense}_tower"] = tower(nested)
            bridge = projector(embedding_projection=Linear(nested.int(width), text.hidden_size))
            behind[f"model.embed_{sense}"] = bridge
    model = compose(config, text, seeing, tied=tied_head(config, text, forwarded=False))
    return with_behind(model, {name: behind[name] for name in BEHIND if name in behind})


def with_behind(model: Model, parts: Parts) -> Model:
    """Return the model with more parts between the language model and the head."""
    body = {name: part for name, part in model.parts.items() if name.startswith("model.")}
    top = {name: part for name, part in model.parts.items() if name not in body}
    return replace(model, parts={**body, **parts, **top})


def decoder(config: Config) -> Model:
    """Return the text model: each kind of layer once."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    per_layer = config.int("hidden_size_per_layer_input", low=0)
    types = layer_types(config, depth)
    first_shared = depth - config.int("num_kv_shared_layers", 0, depth)
    if first_shared < depth and set(types[:first_shared]) != set(types):
        raise ConfigError(
            "No earlier layer has the keys and values that the last layers share.", "Check num_kv_shared_layers."
        )
    shapes = head_shapes(config, types)
    stores = storing(types, first_shared)
    kinds = [(kind == FULL, i >= first_shared, stores[i], *shapes[i]) for i, kind in enumerate(types)]
    layers = {kind: layer(config, hidden, per_layer, *kind) for kind in dict.fromkeys(kinds)}
    extra = per_layer_parts(config, hidden, depth, per_layer) if per_layer else {}
    unplayed = (
        *(("bidirectional attention",) if config.get("use_bidirectional_attention") == "all" else ()),
        *(() if SLIDING in types and sliding_window(config) is not None else ("layers without a window",)),
        *(("shared keys and values without embeddings per layer",) if first_shared < depth and not per_layer else ()),
    )
    model = with_extra(config, [layers[kind] for kind in kinds], norm(hidden), extra, unplayed)
    return with_head(model, softcap=config.raw.get("final_logit_softcapping") is not None)


def with_extra(config: Config, layers: list[Block], last: Norm, extra: Parts, unplayed: tuple[str, ...]) -> Model:
    """Return a decoder with a scaled embedding, and more parts between the last norm and the head."""
    model = causal_lm(config, layers, last, unplayed=unplayed)
    table = model.parts[EMBED]
    if not isinstance(table, Embedding):
        raise TypeError("a decoder begins with an embedding")
    scaled = replace(model, parts={**model.parts, EMBED: replace(table, scaled=True)})
    return with_behind(scaled, extra)


def per_layer_parts(config: Config, hidden: int, depth: int, size: int) -> dict[str, Part]:
    """Return what makes an input of `size` for each layer: a table, a map of the embeddings, and a norm."""
    rows = config.int("vocab_size_per_layer_input")
    return {
        "model.embed_tokens_per_layer": Embedding(rows, depth * size, kind="embedding_per_layer", scaled=True),
        "model.per_layer_model_projection": Linear(hidden, depth * size),
        "model.per_layer_projection_norm": norm(size),
    }


def norm(size: int) -> Norm:
    """Return a norm that takes a power instead of a root."""
    return Norm(size, style="rms by power")


def storing(types: list[str], first_shared: int) -> list[bool]:
    """Return which layers store keys and values: the last of each kind before those that reuse them, if any do.

    >>> storing(["sliding", "full", "sliding", "full", "full"], 4)
    [False, False, True, True, False]
    """
    if first_shared == len(types):
        return [False] * len(types)
    last = {kind: at for at, kind in enumerate(types[:first_shared])}
    return [last.get(kind) == at for at, kind in enumerate(types)]


def head_shapes(config: Config, types: list[str]) -> list[tuple[int, int]]:
    """Return (K, D) of each layer: full layers have larger and perhaps fewer heads.

    Published files give the full layers' sizes once; files saved by transformers 5 give every layer's own.
    """
    usual = config.int("num_key_value_heads"), config.int("head_dim")
    if config.get("per_layer_config") is not None:
        names = ("num_key_value_heads", "head_dim")
        every = config.sub("per_layer_config")
        defaults = dict(zip(names, usual, strict=True))
        layers = [Config(every.section(str(i)), defaults, where=every.where, nested=True) for i in range(len(types))]
        if any(set(each.raw) - set(names) for each in layers):
            raise UnsupportedError(
                "A per_layer_config that changes more than heads is not modelled.", "Use the published config.json."
            )
        return [(each.int(names[0]), each.int(names[1])) for each in layers]
    kv_heads = usual[0]
    if config.bool("attention_k_eq_v"):
        kv_heads = config.optional_int("num_global_key_value_heads") or kv_heads
    full = kv_heads, config.int("global_head_dim") if config.has("global_head_dim") else GLOBAL_HEAD_DIM
    return [full if kind == FULL else usual for kind in types]


def layer_types(config: Config, depth: int) -> list[str]:
    """Return sliding or full for each layer; the class forces the last one to be full."""
    types = config.layer_list("layer_types", depth)
    if types is None:
        types = [FULL if (i + 1) % EVERY == 0 else SLIDING for i in range(depth)]
    for kind in types:
        if kind not in (FULL, SLIDING):
            raise config.error("layer_types", f"has {str(kind)[:40]!r}, neither {FULL} nor {SLIDING}")
    return [*types[:-1], FULL]


def layer(
    config: Config, hidden: int, per_layer: int, full: bool, shared: bool, stores: bool, kv_heads: int, size: int
) -> Module:
    """Return one layer; a layer sharing keys and values may have an MLP twice as wide."""
    wide = 2 if shared and config.bool("use_double_wide_mlp") else 1
    parts: dict[str, Part] = {
        "self_attn": attention(config, hidden, full, shared, stores, kv_heads, size),
        "mlp": GatedMLP(hidden, config.int("intermediate_size") * wide, activation=activation(config)),
        "input_layernorm": norm(hidden),
        "post_attention_layernorm": norm(hidden),
        "pre_feedforward_layernorm": norm(hidden),
        "post_feedforward_layernorm": norm(hidden),
        "layer_scalar": Tensor((1,), "bias buffer"),
    }
    if per_layer:
        parts |= {
            "per_layer_input_gate": Linear(hidden, per_layer),
            "per_layer_projection": Linear(per_layer, hidden),
            "post_per_layer_input_norm": norm(hidden),
        }
    if config.bool("enable_moe_block"):
        return mixture(config, hidden, parts)
    return Module(parts)


def activation(config: Config) -> str:
    """Return the activation of MLPs and of the input per layer."""
    return config.str("hidden_activation", "gelu_pytorch_tanh")


def attention(
    config: Config, hidden: int, full: bool, shared: bool, stores: bool, kv_heads: int, size: int
) -> Block:  # fmt: skip
    """Return the attention: in full layers keys may serve as values."""
    heads, bias, each = config.int("num_attention_heads"), config.bool("attention_bias"), norm(size)
    window, rate = None if full else sliding_window(config), config.rate("attention_dropout", 0.0)
    if shared:
        return SharedKVAttention(hidden, heads, size, bias, each, window, rate)
    if full and config.bool("attention_k_eq_v"):
        return KeyAsValueAttention(hidden, heads, kv_heads, size, bias, each, each, stores, rate)
    return StoringAttention(
        hidden, heads, kv_heads, size, qkv_bias=bias, out_bias=bias, q_norm=each, k_norm=each, dropout=rate,
        sliding_window=window, stores=stores,
    )  # fmt: skip


def sliding_window(config: Config) -> int | None:
    """Return what a sliding layer sees; where tokens see to both sides, half of it to each."""
    window = config.optional_int("sliding_window")
    return both_ways(window) if config.get("use_bidirectional_attention") == "all" else window


def mixture(config: Config, hidden: int, parts: dict[str, Part]) -> MixtureLayer:
    """Return a layer with router, experts and their norms, which stand beside the dense MLP in the layer itself."""
    count, ffn = config.int("num_experts", high=MAX_EXPERTS), config.int("moe_intermediate_size")
    top_k = config.int("top_k_experts", high=count)
    expert = Module(GatedMLP(hidden, ffn, role="expert").parts)
    beside: dict[str, Part] = {
        "router": ScaledRouter(hidden, count, top_k),
        "experts": Stack((expert,) * count, top_k, kind="moe_experts"),
        "post_feedforward_layernorm_1": norm(hidden),
        "post_feedforward_layernorm_2": norm(hidden),
        "pre_feedforward_layernorm_2": norm(hidden),
    }
    return MixtureLayer({**parts, **beside}, stacked=StackedExperts(hidden, ffn, count, activation(config)))
