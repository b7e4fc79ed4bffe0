"""Qwen3-Next and the text models of Qwen3.5: gated delta nets, gated full attention in every fourth layer.

Feed-forward: experts with a gated shared expert (Qwen3-Next, Qwen3.5-MoE) or an MLP (Qwen3.5). Class defaults and
structure: transformers 5.23, models/qwen3_next, models/qwen3_5, models/qwen3_5_moe; the MTP layer, which
transformers does not build: vLLM, model_executor/models/qwen3_next_mtp.py, and the published totals.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Block, Module, Part, Stack
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.gated_attention import QueryGatedAttention
from oomph.blocks.linear_attention import GatedDeltaNet
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.moe import MoE, Router, StackedExperts, shared_expert
from oomph.config import MAX_DEPTH, MAX_EXPERTS, Config
from oomph.errors import UnsupportedError
from oomph.families.common import causal_lm, rotary_dim
from oomph.families.layer_types import FULL, LINEAR, full_every, listed
from oomph.families.mtp import predictors, with_mtp
from oomph.model import Model

_DELTA_NET: dict[str, Any] = {
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {
    "qwen3_next": {
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 48,
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "max_position_embeddings": 32768,
        "tie_word_embeddings": False, "attention_bias": False, **_DELTA_NET, "decoder_sparse_step": 1,
        "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_experts": 512,
        "num_experts_per_tok": 10,
    },
    "qwen3_5_text": {
        "vocab_size": 248320, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32,
        "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 32768,
        "tie_word_embeddings": False, "attention_bias": False, **_DELTA_NET,
    },
    "qwen3_5_moe_text": {
        "vocab_size": 248320, "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16,
        "num_key_value_heads": 2, "head_dim": 256, "max_position_embeddings": 32768, "tie_word_embeddings": False,
        "attention_bias": False, **_DELTA_NET, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
        "num_experts": 256, "num_experts_per_tok": 8,
    },
}  # fmt: skip

PARTIAL_ROTARY_FACTOR = 0.25  # of the configuration classes
FULL_ATTENTION_INTERVAL = 4  # the classes' default where the config names no kinds of layers
QWEN3_NEXT_MTP_LAYERS = 1  # in every published checkpoint, though no config says so
SEPARATE_MAPS = (("in_proj_qkv", "qkv"), ("in_proj_z", "z"), ("in_proj_b", "b"), ("in_proj_a", "a"))


def build(config: Config) -> Model:
    """Return the decoder: up to two kinds of mixer times two kinds of feed-forward."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    interval = config.optional_int("full_attention_interval", high=MAX_DEPTH) or FULL_ATTENTION_INTERVAL
    kinds = listed(config, depth) or full_every(depth, interval)
    routed = routed_layers(config, depth)
    mtp_layers = number_of_mtp_layers(config)
    layers: dict[tuple[str, bool], Block] = {}

    def layer(kind: str, experts: bool) -> Block:
        if (kind, experts) not in layers:
            layers[kind, experts] = decoder_layer(config, hidden, kind, experts)
        return layers[kind, experts]

    stack = [layer(kind, experts) for kind, experts in zip(kinds, routed, strict=True)]
    unplayed = () if FULL in kinds else ("a decoder without attention",)
    model = causal_lm(config, stack, norm(hidden), unplayed=unplayed)
    if not mtp_layers:
        return model
    extra = [layer(FULL, experts) for experts in routed_layers(config, mtp_layers)]
    notes = () if config.model_type != "qwen3_next" else ("Qwen3-Next configs do not announce their MTP layer.",)
    return with_mtp(model, {"mtp": mtp(hidden, extra)}, *notes)


def routed_layers(config: Config, layers: int) -> list[bool]:
    """Return for each layer whether its feed-forward has experts."""
    if config.model_type != "qwen3_next":
        return [config.model_type == "qwen3_5_moe_text"] * layers
    step, dense = config.int("decoder_sparse_step", high=MAX_DEPTH), set(config.ints("mlp_only_layers") or ())
    if not config.int("num_experts", low=0, high=MAX_EXPERTS):
        return [False] * layers
    return [(index + 1) % step == 0 and index not in dense for index in range(layers)]


def decoder_layer(config: Config, hidden: int, kind: str, experts: bool) -> Block:
    """Return one layer of this kind of mixer and feed-forward."""
    mixer = {"linear_attn": delta_net(config, hidden)} if kind == LINEAR else {"self_attn": attention(config, hidden)}
    return Module(
        {
            **mixer,
            "mlp": mixture(config, hidden) if experts else mlp(config, hidden, config.int("intermediate_size")),
            "input_layernorm": norm(hidden),
            "post_attention_layernorm": norm(hidden),
        }
    )


def norm(size: int) -> Norm:
    """Return a norm whose scale is 1 + weight."""
    return Norm(size, style="rms plus one")


def mlp(config: Config, hidden: int, ffn: int) -> GatedMLP:
    """Return a gated MLP with the config's activation."""
    return GatedMLP(hidden, ffn, activation=config.str("hidden_act", "silu"))


def delta_net(config: Config, hidden: int) -> Block:
    """Return the gated delta net; Qwen3.5 keeps apart the input maps that Qwen3-Next fuses."""
    net = GatedDeltaNet(
        hidden,
        config.int("linear_num_key_heads"),
        config.int("linear_num_value_heads"),
        config.int("linear_key_head_dim"),
        config.int("linear_value_head_dim"),
        config.int("linear_conv_kernel_dim"),
        activation=config.str("hidden_act", "silu"),
    )
    apart = {"maps": SEPARATE_MAPS, "order": ("conv", "norm", "out", "maps")}
    return net if config.model_type == "qwen3_next" else replace(net, **apart)  # type: ignore[arg-type]


def attention(config: Config, hidden: int) -> Block:
    """Return grouped-query attention with an output gate in its query map and norms per head."""
    size, bias = config.int("head_dim"), config.bool("attention_bias")
    heads, kv_heads = config.int("num_attention_heads"), config.int("num_key_value_heads")
    return QueryGatedAttention(
        hidden, heads, kv_heads, size, qkv_bias=bias, out_bias=bias, q_norm=norm(size), k_norm=norm(size),
        dropout=config.rate("attention_dropout", 0.0), rotary="partial",
        rotary_dim=rotary_dim(config, size, PARTIAL_ROTARY_FACTOR),
    )  # fmt: skip


def mixture(config: Config, hidden: int) -> Block:
    """Return the experts and the shared expert behind its sigmoid gate."""
    number = config.int("num_experts", high=MAX_EXPERTS)
    ffn = config.int("moe_intermediate_size")
    extra: dict[str, Part] = {
        "shared_expert": shared_expert(mlp(config, hidden, config.int("shared_expert_intermediate_size"))),
        "shared_expert_gate": shared_expert(Linear(hidden, 1)),
    }
    return MoE(
        Router(hidden, number),
        GatedMLP(hidden, ffn, role="expert"),
        number,
        config.int("num_experts_per_tok"),
        extra=extra,
        stacked=StackedExperts(hidden, ffn, number, config.str("hidden_act", "silu")),
        style="qwen2_moe",
        normalised=config.model_type != "qwen3_next" or config.bool("norm_topk_prob", default=True),
    )


def number_of_mtp_layers(config: Config) -> int:
    """Return how many MTP layers the checkpoint holds; ones with an embedding of their own are not known."""
    if config.bool("mtp_use_dedicated_embeddings"):
        raise UnsupportedError(
            "No published model has MTP layers with dedicated embeddings, so their tensors are not known.",
            "Set mtp_num_hidden_layers to 0 and mtp_use_dedicated_embeddings to false to weigh the model without them.",
        )
    if config.model_type == "qwen3_next":
        said = config.has("num_nextn_predict_layers")
        return predictors(config) if said else QWEN3_NEXT_MTP_LAYERS
    return predictors(config, "mtp_num_hidden_layers")


def mtp(hidden: int, layers: list[Block]) -> Block:
    """Return the MTP head: hidden state and next embedding, normed, joined by fc, then its layers and a norm."""
    return Module(
        {
            "fc": Linear(2 * hidden, hidden),
            "layers": Stack(tuple(layers)),
            "norm": Norm(hidden),
            "pre_fc_norm_embedding": Norm(hidden),
            "pre_fc_norm_hidden": Norm(hidden),
        },
        kind="mtp",
    )
