"""GPT, GPT-2 and GPT-BigCode: learned positions, LayerNorm with bias, fused qkv, 4·H MLP, tied head.

GPT and GPT-2 keep their maps as Conv1D (stored in × out); GPT-BigCode keeps them as Linear, with one key/value head.
Class defaults and structure: transformers 5.23, models/openai, gpt2, gpt_bigcode.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module, Part
from oomph.blocks.basic import Dropout, Embedding, Norm
from oomph.blocks.encoder import UncachedAttention
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.errors import UnsupportedError
from oomph.families.common import causal_lm
from oomph.model import Model
from oomph.tensor import Role

TYPES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "vocab_size": 50257, "max_position_embeddings": 1024, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "tie_word_embeddings": True,
    },
    "gpt_bigcode": {
        "vocab_size": 50257, "max_position_embeddings": 1024, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "tie_word_embeddings": True, "multi_query": True,
    },
    "openai-gpt": {
        "vocab_size": 40478, "max_position_embeddings": 512, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "tie_word_embeddings": True,
    },
}  # fmt: skip
ACTIVATION = {"gpt_bigcode": "gelu_pytorch_tanh"}
# What GPT (1) calls its activations, afn.
FIRST_NAMES = {"gelu": "gelu_new", "swish": "silu"}
DROPOUT = 0.1  # resid_pdrop, embd_pdrop and attn_pdrop of every class here
_SPELLINGS: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd",), "max_position_embeddings": ("n_positions", "n_ctx"),
    "num_attention_heads": ("n_head",), "num_hidden_layers": ("n_layer",),
}  # fmt: skip
ALIASES = dict.fromkeys(TYPES, _SPELLINGS)


def build(config: Config) -> Model:
    """Return the decoder; n_inner null or absent means 4·H. GPT (1) has no norm after the last layer."""
    if config.bool("add_cross_attention"):
        raise UnsupportedError("oomph does not model GPT-2 with cross-attention (add_cross_attention).")
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    first = config.model_type == "openai-gpt"
    role: Role = "linear" if config.model_type == "gpt_bigcode" else "conv1d"
    ffn = (None if first else config.optional_int("n_inner")) or 4 * hidden
    norm = Norm(hidden, bias=True)
    resid_dropout = Dropout(config.rate("resid_pdrop", DROPOUT))
    parts: dict[str, Part] = (
        {
            "ln_1": norm,
            "attn": (UncachedAttention if first else Attention)(
                hidden, heads, 1 if config.bool("multi_query") else heads,
                config.divide(hidden, heads, "attention heads"),
                qkv_bias=True, out_bias=True, qkv=("c_attn",), out="c_proj", role=role,
                dropout=config.rate("attn_pdrop", DROPOUT), resid_dropout=resid_dropout,
            ),
            "ln_2": norm,
            "mlp": MLP(
                hidden, ffn, bias=True, names=("c_fc", "c_proj"), dropout=resid_dropout, role=role,
                activation=activation(config),
            ),
        }
    )  # fmt: skip
    layer = Module({name: parts[name] for name in ("attn", "ln_1", "mlp", "ln_2")} if first else parts)
    tokens, places = ("tokens_embed", "positions_embed") if first else ("wte", "wpe")
    positions = Embedding(config.int("max_position_embeddings"), hidden, kind="position_embedding")
    return causal_lm(
        config,
        (layer,) * config.depth("num_hidden_layers"),
        None if first else norm,
        embed=f"transformer.{tokens}",
        extra={f"transformer.{places}": positions, "transformer.drop": Dropout(config.rate("embd_pdrop", DROPOUT))},
        stack="transformer.h",
        norm="transformer.ln_f",
    )


def activation(config: Config) -> str:
    """Return what the MLP goes through."""
    if config.model_type != "openai-gpt":
        return config.str("activation_function", ACTIVATION.get(config.model_type, "gelu_new"))
    named = config.str("afn", "gelu")
    return FIRST_NAMES.get(named, named)
