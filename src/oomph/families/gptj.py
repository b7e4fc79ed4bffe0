"""GPT-J and CodeGen: attention without biases and MLP side by side behind one norm, biased head.

Class defaults and structure: transformers 5.23, models/gptj and models/codegen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module
from oomph.blocks.basic import Buffer, Dropout, Norm
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.families.common import causal_lm
from oomph.model import Model

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 50400, "max_position_embeddings": 2048, "hidden_size": 4096, "num_hidden_layers": 28,
    "num_attention_heads": 16, "tie_word_embeddings": False, "rotary_dim": 64,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {"gptj": _DEFAULTS, "codegen": _DEFAULTS}
_SPELLINGS: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd",), "max_position_embeddings": ("n_positions",),
    "num_attention_heads": ("n_head",), "num_hidden_layers": ("n_layer",),
}  # fmt: skip
ALIASES = dict.fromkeys(TYPES, _SPELLINGS)


def build(config: Config) -> Model:
    """Return the decoder; n_inner null or absent means 4·H. CodeGen fuses q, k and v."""
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    qkv = ("qkv_proj",) if config.model_type == "codegen" else ("k_proj", "v_proj", "q_proj")
    width = config.divide(hidden, heads, "attention heads")
    ffn = config.optional_int("n_inner") or 4 * hidden
    rotary, dropout = config.optional_int("rotary_dim"), Dropout(config.rate("resid_pdrop", 0.0))
    layer = Module(
        {
            "ln_1": Norm(hidden, bias=True),
            "attn": Attention(
                hidden, heads, heads, width, qkv=qkv, out="out_proj",
                dropout=config.rate("attn_pdrop", 0.0), resid_dropout=dropout, rotary_dim=rotary,
            ),
            "mlp": MLP(
                hidden, ffn, bias=True, names=("fc_in", "fc_out"), dropout=dropout,
                activation=config.str("activation_function", "gelu_new"),
            ),
        }
    )  # fmt: skip
    positions = Buffer((config.int("max_position_embeddings"), rotary or hidden))
    drop = Dropout(config.rate("embd_pdrop", 0.0))
    model = causal_lm(
        config,
        (layer,) * config.depth("num_hidden_layers"),
        Norm(hidden, bias=True),
        embed="transformer.wte",
        extra={"transformer.drop": drop, "transformer.embed_positions": positions},
        stack="transformer.h",
        norm="transformer.ln_f",
        head_bias=True,
    )
    return model if rotary else replace(model, unplayed=(*model.unplayed, "rotary_dim=null"))
