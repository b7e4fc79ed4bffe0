"""Llama 3.2 Vision: a Llama whose listed layers attend to the image instead of to the text.

Class defaults and structure: transformers 5.23, models/mllama. The class never ties its head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module
from oomph.blocks.basic import Embedding, Linear, Norm
from oomph.blocks.encoder import CrossAttention
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.families.common import causal_lm
from oomph.families.multimodal import compose, section, text_model
from oomph.families.towers import tower, typed_tower
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "mllama": {},
    "mllama_text_model": {
        "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 131072,
    },
}  # fmt: skip

EXTRA_ROWS = 8  # the image token and seven spares: in the embedding, not in the head
CROSS_ORDER = ("input_layernorm", "mlp", "post_attention_layernorm")  # of the parts of a layer that attends to images
# What MllamaTextConfig takes when cross_attention_layers is null.
CROSS_LAYERS = (3, 8, 13, 18, 23, 28, 33, 38)


def build(config: Config) -> Model:
    """Return the decoder, with the tower unless it is the text model alone."""
    if config.model_type == "mllama_text_model":
        return decoder(config)
    text = text_model(config, "mllama_text_model", fixed=True)
    vision = typed_tower(section(config, "vision_config"), "mllama_vision_model", fixed=True)
    bridge = Linear(vision.int("vision_output_dim"), text.hidden_size, bias=True, kind="projector")
    whole = compose(config, text, {"model.vision_model": tower(vision)})
    return replace(whole, parts={**whole.parts, "model.multi_modal_projector": bridge})  # the class's last part


def decoder(config: Config) -> Model:
    """Return the text model: self-attention layers, and gated cross-attention layers where listed."""
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    kv_heads, size = config.int("num_key_value_heads"), config.divide(hidden, heads, "attention heads")
    rest = {
        "mlp": GatedMLP(hidden, config.int("intermediate_size"), activation=config.str("hidden_act", "silu")),
        "input_layernorm": Norm(hidden),
        "post_attention_layernorm": Norm(hidden),
    }
    gate, norm, rate = Tensor((1,), "param"), Norm(size), config.rate("dropout", 0.0)
    attention = Attention(hidden, heads, kv_heads, size, dropout=rate, norm_place="whole")
    itself = Module({"self_attn": attention, **rest})
    cross = Module(
        {
            "cross_attn_attn_gate": gate,
            "cross_attn_mlp_gate": gate,
            "cross_attn": CrossAttention(hidden, heads, kv_heads, size, q_norm=norm, k_norm=norm, dropout=rate),
            **{name: rest[name] for name in CROSS_ORDER},
        }
    )
    listed = config.ints("cross_attention_layers")
    crossing = frozenset(CROSS_LAYERS if listed is None else listed)
    depth, vocab = config.depth("num_hidden_layers"), config.size("vocab_size")
    layers = [cross if i in crossing else itself for i in range(depth)]
    embedding = {"model.embed_tokens": Embedding(vocab + EXTRA_ROWS, hidden)}
    unplayed = ("a first layer that attends to images",) if 0 in crossing else ()
    return causal_lm(config, layers, Norm(hidden), tied=False, extra=embedding, unplayed=unplayed)
