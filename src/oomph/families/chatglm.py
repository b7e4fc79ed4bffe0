"""ChatGLM2, ChatGLM3 and the first GLM-4: fused qkv with few groups, fused gated MLP, their own names.

Structure and defaults: the code of their repositories, modeling_chatglm.py and configuration_chatglm.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module, Part, Stack
from oomph.blocks.basic import Embedding, Head, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.errors import UnsupportedError
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "chatglm": {
        "ffn_hidden_size": 13696, "kv_channels": 128, "num_attention_heads": 32, "multi_query_group_num": 1,
        "rmsnorm": True, "post_layer_norm": True, "tie_word_embeddings": False,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "chatglm": {
        "num_hidden_layers": ("num_layers",), "vocab_size": ("padded_vocab_size",),
        "max_position_embeddings": ("seq_length",),
    },
}  # fmt: skip
CONTEXT = 2048  # the class default of seq_length
GLM4_VOCAB = 151552  # of the first GLM-4, which has other code; ChatGLM2 and 3 have 65,024
ROTARY_PAIRS = 4  # half of each head is rotated, in pairs: one stored frequency for four channels


@dataclass(frozen=True)
class GLMAttention(Attention):
    """ChatGLM's: whether groups of heads share keys and values, which decides how the fused map is cut."""

    multi_query: bool = True


@dataclass(frozen=True, eq=False)
class GLMLayer(Module):
    """A layer: the dropout rate after each sublayer, and whether the sums start from the norms' outputs."""

    rate: float = 0.0
    residual_after_norm: bool = False


@dataclass(frozen=True, eq=False)
class RotaryCache(Module):
    """The stored frequencies, and for how many positions a table is made of them."""

    positions: int = CONTEXT


def build(config: Config) -> Model:
    """Return the decoder; the bare class holds the head, so `architectures` naming it changes nothing."""
    refuse_other_generations(config)
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    groups = config.int("multi_query_group_num") if config.bool("multi_query_attention") else heads
    bias, channels = config.bool("add_bias_linear"), config.int("kv_channels")
    plain = config.bool("rmsnorm")
    norm = Norm(hidden, bias=not plain, style="rms glm" if plain else "")
    layer = GLMLayer(
        {
            "input_layernorm": norm,
            "self_attention": GLMAttention(
                hidden, heads, groups, channels,
                qkv_bias=bias or config.bool("add_qkv_bias"), out_bias=bias, qkv=("query_key_value",), out="dense",
                multi_query=config.bool("multi_query_attention"),
            ),
            "post_attention_layernorm": norm,
            "mlp": GatedMLP(hidden, config.int("ffn_hidden_size"), bias, names=("dense_h_to_4h", "dense_4h_to_h")),
        },
        rate=config.rate("hidden_dropout", 0.0),
        residual_after_norm=config.bool("apply_residual_connection_post_layernorm"),
    )  # fmt: skip
    vocab, layers = config.size("vocab_size"), config.depth("num_hidden_layers")
    tied = config.bool("tie_word_embeddings")
    frequencies = Tensor((config.divide(channels, ROTARY_PAIRS, "rotary frequencies"),), "buffer")
    context = config.optional_int("max_position_embeddings")
    parts: dict[str, Part] = {
        "transformer.embedding.word_embeddings": Embedding(vocab, hidden),
        "transformer.rotary_pos_emb": RotaryCache({"inv_freq": frequencies}, positions=context or CONTEXT),
        "transformer.encoder.layers": Stack((layer,) * layers),
        "transformer.encoder.final_layernorm": norm if config.bool("post_layer_norm") else None,
        "transformer.output_layer": Head(hidden, vocab, tied, bias),
    }
    return Model(parts, hidden, layers, vocab, tied, context, unplayed=unplayed(config, vocab, tied))


def unplayed(config: Config, vocab: int, tied: bool) -> tuple[str, ...]:
    """Return what the program does not play."""
    asked = {
        "GLM-4's own code": vocab == GLM4_VOCAB,
        "tie_word_embeddings": tied,
        "fp32_residual_connection": config.bool("fp32_residual_connection"),
        "quantization_bit": bool(config.optional_int("quantization_bit", low=0)),
    }
    return tuple(name for name, there in asked.items() if there)


def refuse_other_generations(config: Config) -> None:
    """Raise for what shares the model_type but not the shape: ChatGLM-6B, GLM-4V, prefixes and classifiers."""
    if "padded_vocab_size" not in config.raw:
        raise UnsupportedError("oomph does not model the first ChatGLM-6B (chatglm without padded_vocab_size).")
    if config.section("vision_config"):
        raise UnsupportedError("oomph does not model GLM-4V (chatglm with vision_config).")
    if config.optional_int("pre_seq_len"):
        raise UnsupportedError("oomph does not model the prefix encoder of a P-tuned ChatGLM (pre_seq_len).")
    if any(str(name).endswith("ForSequenceClassification") for name in config.list("architectures") or []):
        raise UnsupportedError("oomph does not model ChatGLM's classification head.")
