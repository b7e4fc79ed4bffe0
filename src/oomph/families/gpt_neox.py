"""GPT-NeoX, Pythia and StableLM-alpha: fused qkv, plain MLP, LayerNorm, a head named embed_out in checkpoints.

Class defaults and structure: transformers 5.23, models/gpt_neox (where the head is lm_head).
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Layer
from oomph.blocks.basic import Dropout, Norm
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.families.common import causal_lm, rotary_dim
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "gpt_neox": {
        "vocab_size": 50432, "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 44,
        "num_attention_heads": 64, "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "attention_bias": True,
    },
}  # fmt: skip
ROTARY_PCT = 0.25  # GPTNeoXConfig's


def build(config: Config) -> Model:
    """Return the decoder; both norms are there whether or not attention and MLP stand side by side."""
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    head_dim = config.divide(hidden, heads, "attention heads")
    turned = rotary_dim(config, head_dim, config.rate("rotary_pct", ROTARY_PCT))
    turned += turned % 2  # it goes by the width of the tables, which have a sine for each cosine
    dropout = Dropout(config.rate("hidden_dropout", 0.0))
    bias, norm = config.bool("attention_bias"), Norm(hidden, bias=True)
    names = ("dense_h_to_4h", "dense_4h_to_h")
    layer = Layer(
        {
            "input_layernorm": norm,
            "post_attention_layernorm": norm,
            "post_attention_dropout": dropout,
            "post_mlp_dropout": dropout,
            "attention": Attention(
                hidden, heads, heads, head_dim,
                qkv_bias=bias, out_bias=bias, qkv=("query_key_value",), out="dense",
                dropout=config.rate("attention_dropout", 0.0), rotary_dim=turned,
            ),
            "mlp": MLP(
                hidden, config.int("intermediate_size"), bias=True, names=names,
                activation=config.str("hidden_act", "gelu"),
            ),
        },
        parallel=config.bool("use_parallel_residual", default=True),
    )  # fmt: skip
    return causal_lm(
        config,
        (layer,) * config.depth("num_hidden_layers"),
        norm,
        embed="gpt_neox.embed_in",
        extra={"gpt_neox.emb_dropout": dropout},
        stack="gpt_neox.layers",
        norm="gpt_neox.final_layer_norm",
        head="embed_out",
    )
