"""Apertus: norms on the heads of q and k, a plain MLP whose activation (xIELU) learns two scalars a layer.

Class defaults and structure: transformers 5.23, models/apertus and activations.XIELUActivation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from oomph.blocks.base import Module, Parts
from oomph.blocks.basic import Norm
from oomph.blocks.mlp import MLP
from oomph.config import Config
from oomph.families.common import causal_lm
from oomph.families.llama import grouped_attention
from oomph.model import Model
from oomph.tensor import Tensor

TYPES: dict[str, dict[str, Any]] = {
    "apertus": {
        "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 65536, "tie_word_embeddings": False,
        "hidden_act": "xielu",
    },
}  # fmt: skip


@dataclass(frozen=True)
class XieluMLP(MLP):
    """down(xIELU(up(x))): the activation's slopes for either sign are learned, its two constants stored."""

    @property
    def parts(self) -> Parts:
        """Up and down maps and the activation's scalars."""
        slope, constant = Tensor((1,), "param"), Tensor((), "buffer")
        activation = Module({"alpha_p": slope, "alpha_n": slope, "beta": constant, "eps": constant})
        return {**super().parts, "act_fn": activation}


def build(config: Config) -> Model:
    """Return the decoder, every layer the same; any other activation learns nothing."""
    hidden, bias = config.size("hidden_size"), config.bool("attention_bias")
    attention = grouped_attention(config, hidden, qkv_bias=bias, out_bias=bias)
    norm = Norm(attention.head_dim)
    mlp = XieluMLP if config.str("hidden_act") == "xielu" else MLP
    layer = Module(
        {
            "self_attn": replace(attention, q_norm=norm, k_norm=norm, norm_place="turned"),
            "mlp": mlp(hidden, config.int("intermediate_size"), activation=config.str("hidden_act")),
            "attention_layernorm": Norm(hidden),
            "feedforward_layernorm": Norm(hidden),
        }
    )
    return causal_lm(config, (layer,) * config.depth("num_hidden_layers"), Norm(hidden))
