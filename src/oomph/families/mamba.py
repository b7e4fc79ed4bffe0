"""Mamba, Falcon-Mamba and Mamba-2: one mixer behind one norm in every layer, nothing else.

Class defaults and structure: transformers 5.23, models/mamba, models/falcon_mamba, models/mamba2.
"""

from __future__ import annotations

from typing import Any

from oomph.blocks.base import Block
from oomph.blocks.basic import Norm
from oomph.blocks.mamba import Mamba, Mamba2, MambaLayer
from oomph.config import Config
from oomph.families.common import causal_lm
from oomph.model import Model

_MAMBA: dict[str, Any] = {
    "vocab_size": 50280, "hidden_size": 768, "num_hidden_layers": 32, "state_size": 16, "expand": 2,
    "conv_kernel": 4, "time_step_rank": "auto", "use_bias": False, "use_conv_bias": True,
    "tie_word_embeddings": True,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {
    "mamba": _MAMBA,
    "falcon_mamba": _MAMBA,
    "mamba2": {
        "vocab_size": 32768, "hidden_size": 4096, "num_hidden_layers": 64, "state_size": 128, "expand": 2,
        "conv_kernel": 4, "num_heads": 128, "head_dim": 64, "n_groups": 8, "use_bias": False, "use_conv_bias": True,
        "tie_word_embeddings": False, "chunk_size": 256,
    },
}  # fmt: skip

AUTO_RANK = 16  # "auto": the time step has one rank for every 16 of the hidden size


def build(config: Config) -> Model:
    """Return the decoder: every layer the same."""
    hidden = config.size("hidden_size")
    mixer = mamba2(config, hidden) if config.model_type == "mamba2" else mamba1(config, hidden)
    layer = MambaLayer({"norm": Norm(hidden), "mixer": mixer}, residual_in_fp32=config.bool("residual_in_fp32", True))
    return causal_lm(
        config,
        (layer,) * config.depth("num_hidden_layers"),
        Norm(hidden),
        embed="backbone.embeddings",
        stack="backbone.layers",
        norm="backbone.norm_f",
    )


def mamba1(config: Config, hidden: int) -> Block:
    """Return a Mamba-1 mixer; Falcon-Mamba's inner norms have no weights."""
    return Mamba(
        hidden,
        config.optional_int("intermediate_size") or hidden * config.int("expand"),
        config.int("state_size"),
        config.int("conv_kernel"),
        time_step_rank(config, "time_step_rank", hidden),
        bias=config.bool("use_bias"),
        conv_bias=config.bool("use_conv_bias"),
        inner_norms="bare" if config.model_type == "falcon_mamba" else "",
        activation=config.str("hidden_act", "silu"),
    )


def time_step_rank(config: Config, key: str, hidden: int) -> int:
    """Return the rank of the time step: a number, or "auto" for hidden / 16 rounded up."""
    return -(-hidden // AUTO_RANK) if config.get(key) == "auto" else config.int(key)


def mamba2(config: Config, hidden: int) -> Block:
    """Return a Mamba-2 mixer, whose heads must fill the expanded width."""
    heads, head_dim, expanded = config.int("num_heads"), config.int("head_dim"), hidden * config.int("expand")
    if heads * head_dim != expanded:
        raise config.error(
            "num_heads", f"times head_dim is {heads * head_dim}, not hidden_size times expand, {expanded}"
        )
    bias = config.bool("use_bias")
    return Mamba2(
        hidden,
        heads,
        head_dim,
        config.int("state_size"),
        config.int("n_groups"),
        config.int("conv_kernel"),
        in_bias=bias,
        out_bias=bias,
        conv_bias=config.bool("use_conv_bias"),
        chunk_size=config.int("chunk_size"),
        activation=config.str("hidden_act", "silu"),
    )
