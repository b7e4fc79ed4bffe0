"""Bamba and Falcon-H1: Mamba-2 and attention, in turn (Bamba) or side by side in every layer (Falcon-H1).

Class defaults and structure: transformers 5.23, models/bamba, models/falcon_h1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Block, Module
from oomph.blocks.basic import Norm
from oomph.blocks.mamba import Mamba2
from oomph.blocks.mlp import GatedMLP
from oomph.config import MAX_DEPTH, Config
from oomph.families.common import causal_lm, head_dim, rotary_dim
from oomph.model import Model

_SHARED: dict[str, Any] = {
    "vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False, "attention_bias": False,
    "mlp_bias": False, "mamba_n_heads": 128, "mamba_d_head": "auto", "mamba_n_groups": 1, "mamba_d_state": 256,
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_conv_bias": True, "mamba_proj_bias": False, "mamba_chunk_size": 256,
}  # fmt: skip
TYPES: dict[str, dict[str, Any]] = {
    "bamba": {**_SHARED, "max_position_embeddings": 262144},
    "falcon_h1": {
        **_SHARED, "max_position_embeddings": 8192, "mamba_d_ssm": 1024, "mamba_rms_norm": False,
        "projectors_bias": False,
    },
}  # fmt: skip


WITHOUT_ATTENTION = "a hybrid without attention"
TURNED = 0.5  # of a head's channels, in Bamba


def build(config: Config) -> Model:
    """Return the decoder: in Falcon-H1 every layer the same, in Bamba attention at the listed indices."""
    hidden, layers = config.size("hidden_size"), config.depth("num_hidden_layers")
    activation = config.str("hidden_act", "silu")
    mlp = GatedMLP(hidden, config.int("intermediate_size"), config.bool("mlp_bias"), activation=activation)
    norms = {"input_layernorm": Norm(hidden), "pre_ff_layernorm": Norm(hidden)}
    rest: dict[str, Block] = {"feed_forward": mlp, **norms}
    mamba, attend = {"mamba": mamba2(config, hidden)}, {"self_attn": attention(config, hidden)}
    if config.model_type == "falcon_h1":
        stack = [Module({"feed_forward": mlp, **mamba, **attend, **norms})] * layers
    else:
        recurrent, attending = Module({**rest, **mamba}), Module({**rest, **attend})
        at = set(config.ints("attn_layer_indices", high=MAX_DEPTH) or ())
        stack = [attending if index in at else recurrent for index in range(layers)]
    extra_loss = config.raw.get("z_loss_coefficient")
    unplayed = [f"z_loss_coefficient={str(extra_loss)[:40]}"] if extra_loss else []
    if not any("self_attn" in layer.parts for layer in stack):
        unplayed.append(WITHOUT_ATTENTION)
    return causal_lm(config, stack, Norm(hidden), norm="model.final_layernorm", unplayed=tuple(unplayed))


def attention(config: Config, hidden: int) -> Attention:
    """Return grouped-query attention; one key switches the biases of all four maps. Bamba turns half of a head."""
    heads, bias = config.int("num_attention_heads"), config.bool("attention_bias")
    kv_heads, size = config.optional_int("num_key_value_heads") or heads, head_dim(config, hidden, heads)
    found = Attention(
        hidden, heads, kv_heads, size, qkv_bias=bias, out_bias=bias, dropout=config.rate("attention_dropout", 0.0)
    )  # fmt: skip
    if config.model_type == "falcon_h1":
        return replace(found, norm_place="scaled keys")
    if config.model_type != "bamba":
        return found
    return replace(found, rotary="partial", rotary_dim=rotary_dim(config, size, TURNED))


def mamba2(config: Config, hidden: int) -> Block:
    """Return the Mamba-2 mixer of the `mamba_*` keys, as IBM's and TII's hybrids spell them.

    The inner width is `mamba_d_ssm` (Falcon-H1) or hidden_size times mamba_expand; the heads must fill it.
    """
    inner = config.optional_int("mamba_d_ssm") or hidden * config.int("mamba_expand")
    heads = config.int("mamba_n_heads")
    width = config.divide(inner, heads, "Mamba heads")
    if config.get("mamba_d_head") != "auto" and config.int("mamba_d_head") != width:
        raise config.error("mamba_d_head", f"times mamba_n_heads is not the inner width {inner}")
    bias = config.bool("mamba_proj_bias")
    return Mamba2(
        hidden,
        heads,
        width,
        config.int("mamba_d_state"),
        config.int("mamba_n_groups"),
        config.int("mamba_d_conv"),
        in_bias=bias,
        out_bias=config.bool("projectors_bias") if config.model_type == "falcon_h1" else bias,
        conv_bias=config.bool("mamba_conv_bias"),
        norm_first=config.model_type == "falcon_h1" and config.bool("mamba_norm_before_gate", default=True),
        gated_norm=config.bool("mamba_rms_norm") if config.model_type == "falcon_h1" else True,
        chunk_size=config.int("mamba_chunk_size"),
        activation=config.str("hidden_act", "silu"),
    )
