"""InternLM2 and 2.5: Llama's shape, q, k and v fused, names of its own.

Structure: the code of its repositories, modeling_internlm2.py; defaults of configuration_internlm2.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.base import Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.tabled_attention import POSITIONS, with_tables
from oomph.config import Config
from oomph.families.common import causal_lm
from oomph.families.llama import grouped_attention
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {"internlm2": {"bias": True, "tie_word_embeddings": False}}
GROWING = "rope_type=dynamic"  # its tables are others only beyond these positions, which the program refuses


def build(config: Config) -> Model:
    """Return the decoder; `bias` is for attention only."""
    hidden, bias = config.size("hidden_size"), config.bool("bias")
    plain = grouped_attention(config, hidden, qkv_bias=bias, out_bias=bias, qkv=("wqkv",), out="wo")
    attention = with_tables(plain, config.optional_int("max_position_embeddings") or POSITIONS)
    ffn, activation = config.int("intermediate_size"), config.str("hidden_act", "silu")
    layer = Module(
        {
            "attention": attention,
            "feed_forward": GatedMLP(hidden, ffn, names=("w1", "w3", "w2"), activation=activation),
            "attention_norm": Norm(hidden),
            "ffn_norm": Norm(hidden),
        }
    )
    model = causal_lm(
        config,
        (layer,) * config.depth("num_hidden_layers"),
        Norm(hidden),
        embed="model.tok_embeddings",
        head="output",
    )
    unplayed = (*model.unplayed, *(("tie_word_embeddings",) if model.tied else ()))
    return replace(model, unplayed=tuple(word for word in unplayed if word != GROWING))
