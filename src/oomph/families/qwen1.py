"""The first Qwen: fused biased qkv, gated MLP of half the width the config says, GPT-2's names.

Structure: the code of its repositories, modeling_qwen.py; defaults of its configuration_qwen.py.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.errors import UnsupportedError
from oomph.families.common import causal_lm
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "qwen": {"kv_channels": 128, "no_bias": True, "tie_word_embeddings": False},
}
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {"qwen": {"max_position_embeddings": ("seq_length",)}}


def build(config: Config) -> Model:
    """Return the decoder; `intermediate_size` counts gate and up together."""
    if config.section("visual"):
        raise UnsupportedError("oomph does not model the vision tower of Qwen-VL (model_type qwen with visual).")
    hidden, heads = config.size("hidden_size"), config.int("num_attention_heads")
    bias = not config.bool("no_bias")
    ffn = config.divide(config.int("intermediate_size"), 2, "halves, gate and up")
    attention = Attention(
        hidden, heads, heads, config.int("kv_channels"),
        qkv_bias=True, out_bias=bias, qkv=("c_attn",), out="c_proj",
    )  # fmt: skip
    norm = Norm(hidden, style="rms in a line")
    layer = Module(
        {
            "ln_1": norm,
            "attn": attention,
            "ln_2": norm,
            "mlp": GatedMLP(hidden, ffn, bias, names=("w2", "w1", "c_proj")),  # w2 is the one that is activated
        }
    )
    return causal_lm(
        config,
        (layer,) * config.depth("num_hidden_layers"),
        norm,
        embed="transformer.wte",
        stack="transformer.h",
        norm="transformer.ln_f",
    )
