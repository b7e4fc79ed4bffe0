"""Gemma 1 to 3 and VaultGemma: head_dim of its own, tied head; four norms a layer from Gemma 2, q/k norms in Gemma 3.

Class defaults and structure: transformers 5.23, models/gemma, gemma2, gemma3 (text), vaultgemma.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module
from oomph.blocks.basic import Embedding, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.families.common import by_window, causal_lm, with_head
from oomph.families.layer_types import FULL, SLIDING, full_after_sliding, listed, windows
from oomph.families.llama import grouped_attention
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "gemma": {
        "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "gemma2": {
        "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
        "tie_word_embeddings": True, "sliding_window": 4096,
    },
    "vaultgemma": {
        "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
        "tie_word_embeddings": True, "sliding_window": 4096,
    },
    "gemma3_text": {
        "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
        "tie_word_embeddings": True, "sliding_window": 4096,
    },
}  # fmt: skip
STYLE = "rms plus one"
NORMS: dict[str, tuple[str, ...]] = {
    "gemma": ("input_layernorm", "post_attention_layernorm"),
    "vaultgemma": ("input_layernorm", "pre_feedforward_layernorm"),
}
FOUR_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


INTERVALS = {"gemma2": 2, "vaultgemma": 2, "gemma3_text": 6}


def build(config: Config) -> Model:
    """Return the decoder; windowed and full layers hold the same weights."""
    hidden, kind = config.size("hidden_size"), config.model_type
    attention = gemma_attention(config, hidden)
    activation = config.str("hidden_act" if kind == "gemma" else "hidden_activation", "gelu_pytorch_tanh")
    if kind == "gemma" and activation == "gelu":  # the class reads the old name as the approximation
        activation = "gelu_pytorch_tanh"
    rest = {
        "mlp": GatedMLP(hidden, config.int("intermediate_size"), activation=activation),
        **{name: Norm(hidden, style=STYLE) for name in NORMS.get(kind, FOUR_NORMS)},
    }
    windows, unplayed = sliding_windows(config, config.depth("num_hidden_layers"))
    if config.bool("use_bidirectional_attention"):
        unplayed = (*unplayed, "bidirectional attention")
    model = causal_lm(
        config,
        by_window(windows, lambda each: Module({"self_attn": replace(attention, sliding_window=each), **rest})),
        Norm(hidden, style=STYLE),
        unplayed=unplayed,
    )
    return _scaled(with_head(model, softcap=_capped(config, "final_logit_softcapping")))


def sliding_windows(config: Config, depth: int) -> tuple[list[int | None], tuple[str, ...]]:
    """Return the window of every layer, and what of them cannot be played: both masks are made whatever the layers."""
    if config.model_type not in INTERVALS:
        return [None] * depth, ()
    kinds = listed(config, depth, allowed=(SLIDING, FULL))
    if kinds is None:
        former = config.optional_int("sliding_window_pattern") if config.model_type == "gemma3_text" else None
        kinds = full_after_sliding(depth, former or INTERVALS[config.model_type])
    if SLIDING not in kinds:
        return [None] * depth, ("layers without a window",)
    places, unplayed = windows(config, kinds)
    if config.model_type == "gemma3_text" and config.bool("use_bidirectional_attention"):
        places = [both_ways(window) for window in places]
    return places, unplayed


def both_ways(window: int | None) -> int | None:
    """Return the window to one side of a token that sees to both; the class counts the token itself once more."""
    return None if window is None else window // 2 + 1


def gemma_attention(config: Config, hidden: int) -> Attention:
    """Return Gemma's attention; from Gemma 3 on with norms on queries and keys in place of bounded scores."""
    bias = config.bool("attention_bias")
    attention = grouped_attention(config, hidden, qkv_bias=bias, out_bias=bias)
    if config.model_type == "gemma3_text":
        norm = Norm(attention.head_dim, style=STYLE)
        return replace(attention, q_norm=norm, k_norm=norm, norm_place="turned", own_tables=True)
    return replace(attention, softcap=_capped(config, "attn_logit_softcapping"))


def _capped(config: Config, key: str) -> bool:
    """Tell whether a bound is set; Gemma 2's class sets one, Gemma 1 and 3 have none."""
    if config.model_type not in ("gemma2", "vaultgemma") and (config.model_type == "gemma" or key.startswith("attn")):
        return False
    default = None if config.model_type == "gemma3_text" else True
    return config.raw.get(key, default) is not None


def _scaled(model: Model) -> Model:
    """Return the model with an embedding that multiplies its vectors by a number."""
    table = model.parts["model.embed_tokens"]
    if not isinstance(table, Embedding):
        raise TypeError("a decoder begins with an embedding")
    return replace(model, parts={**model.parts, "model.embed_tokens": replace(table, scaled=True)})
