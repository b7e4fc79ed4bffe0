"""Llama and the families that kept its shape: RMSNorm, grouped-query attention, gated MLP, pre-norm.

They differ only in defaults, in the keys that switch biases on, in the name of a map, or in one extra norm.
Class defaults and structure: transformers 5.23, models/<type>; for InternLM (1) the code of its
repositories.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module, Part
from oomph.blocks.basic import Dropout, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.blocks.tabled_attention import with_tables
from oomph.config import Config
from oomph.families.common import DYNAMIC, LOOKING, causal_lm, head_dim, rope_type, with_head
from oomph.families.layer_types import FULL, SLIDING, listed, sliding_after_full, windows
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    },
    "mistral": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "sliding_window": 4096,
    },
    "ministral": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "sliding_window": 4096,
    },
    "ministral3": {
        "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
        "tie_word_embeddings": False,
    },
    "granite": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    },
    "granite_swa": {
        "vocab_size": 100352, "hidden_size": 2560, "intermediate_size": 8192, "num_hidden_layers": 24,
        "num_attention_heads": 20, "num_key_value_heads": 4, "max_position_embeddings": 8192,
        "tie_word_embeddings": True, "sliding_window": 128,
    },
    "smollm3": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
    "seed_oss": {
        "vocab_size": 155136, "hidden_size": 4096, "intermediate_size": 27648, "num_hidden_layers": 64,
        "num_attention_heads": 80, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 524288,
        "tie_word_embeddings": False, "attention_bias": True,
    },
    "ernie4_5": {
        "vocab_size": 103424, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 18,
        "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
    "hyperclovax": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False,
        "use_post_norm": True,
    },
    "cwm": {
        "vocab_size": 128256, "hidden_size": 6144, "intermediate_size": 21504, "num_hidden_layers": 64,
        "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
        "tie_word_embeddings": False, "sliding_window": 8192,
    },
    "iquestcoder": {
        "vocab_size": 76800, "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 80,
        "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
    "bitnet": {
        "vocab_size": 128256, "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 30,
        "num_attention_heads": 20, "num_key_value_heads": 5, "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
    "helium": {
        "vocab_size": 48000, "hidden_size": 2560, "intermediate_size": 7040, "num_hidden_layers": 24,
        "num_attention_heads": 20, "num_key_value_heads": 20, "head_dim": 128, "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    },
    "internlm3": {
        "vocab_size": 128512, "hidden_size": 4096, "intermediate_size": 10240, "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
    },
    "internlm": {
        "vocab_size": 103168, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "tie_word_embeddings": False, "bias": True,
    },
}  # fmt: skip
ALIASES: dict[str, dict[str, tuple[str, ...]]] = {
    "internlm3": {"attention_bias": ("qkv_bias",), "mlp_bias": ("bias",)},
}

# The keys that give a bias to q/k/v, to the output map and to the MLP; "" where the class has none.
LLAMA_BIASES = ("attention_bias", "attention_bias", "mlp_bias")
BIASES: dict[str, tuple[str, str, str]] = {
    "mistral": ("", "", ""),
    "ministral": ("", "", ""),
    "ministral3": ("", "", ""),
    "seed_oss": ("attention_bias", "attention_out_bias", "mlp_bias"),
    "ernie4_5": ("use_bias", "use_bias", "use_bias"),
    "bitnet": ("attention_bias", "attention_bias", ""),
    "cwm": ("", "", "mlp_bias"),
    "helium": ("attention_bias", "", "mlp_bias"),
    "internlm3": ("attention_bias", "mlp_bias", "mlp_bias"),  # transformers refuses the two to differ
    "internlm": ("bias", "bias", ""),
}
STYLES = {"helium": "rms all fp32", "internlm": "rms mixed"}
ROTARY = {"helium": "helium", "ernie4_5": "ernie4_5"}
ACTIVATION = {"bitnet": "relu2"}
SEED_DROPOUT = 0.1
NO_ROPE_INTERVAL = FULL_INTERVAL = 4
MULTI_HEAD = ("internlm",)  # every head has keys and values of its own, whatever the file says


def grouped_attention(config: Config, hidden: int, **options: Any) -> Attention:
    """Return the attention most families share, sized by the usual keys; `options` are Attention's own."""
    options.setdefault("dropout", config.rate("attention_dropout", 0.0))
    heads = config.int("num_attention_heads")
    kv_heads = config.optional_int("num_key_value_heads") or heads
    return Attention(hidden, heads, kv_heads, head_dim(config, hidden, heads), **options)


def build(config: Config) -> Model:
    """Return the decoder: every layer the same, qkv and MLP biases only if the config says so."""
    hidden, kind = config.size("hidden_size"), config.model_type
    qkv_bias, out_bias, mlp_bias = (bool(key) and config.bool(key) for key in BIASES.get(kind, LLAMA_BIASES))
    options: dict[str, Any] = {"qkv_bias": qkv_bias, "out_bias": out_bias, "sinks": kind == "granite_swa"}
    if kind == "seed_oss":
        options["dropout"] = config.rate("attention_dropout", SEED_DROPOUT)
    if kind == "ernie4_5":
        options["dropout"] = 0.0  # whatever the file says
    attention = grouped_attention(config, hidden, **options)
    if kind in ("mistral", "ministral3"):
        attention = replace(attention, sliding_window=config.optional_int("sliding_window"))
    if kind in MULTI_HEAD:
        attention = replace(attention, num_kv_heads=attention.num_heads)
        attention = with_tables(attention, config.int("max_position_embeddings"))
    if kind == "helium" and attention.num_heads * attention.head_dim != hidden:  # its output map is H to H
        raise config.error("head_dim", f"times {attention.num_heads} heads is not hidden_size ({hidden})")
    post_norm = Norm(hidden) if kind == "hyperclovax" and config.bool("use_post_norm") else None
    style = STYLES.get(kind, "")
    dropout = Dropout(config.rate("residual_dropout", SEED_DROPOUT)) if kind == "seed_oss" else None
    ffn, activation = config.int("intermediate_size"), config.str("hidden_act", ACTIVATION.get(kind, "silu"))
    if kind == "bitnet":
        attention = replace(attention, sub_norm=Norm(hidden))
    rest: dict[str, Part] = {
        "mlp": GatedMLP(
            hidden,
            ffn,
            mlp_bias,
            activation=activation,
            dropout=dropout,
            down_second=kind == "internlm",
            sub_norm=Norm(ffn) if kind == "bitnet" else None,
        ),
        "input_layernorm": Norm(hidden, style=style),
        "post_attention_layernorm": Norm(hidden, style=style),
        "post_norm1": post_norm,
        "post_norm2": post_norm,
    }
    attention = replace(attention, rotary=ROTARY.get(kind, "llama"), resid_dropout=dropout)
    attention = replace(attention, position_scaled=kind == "ministral3")
    if kind in LOOKING and rope_type(config) == DYNAMIC:
        attention = replace(attention, dynamic=config.int("max_position_embeddings"))
    depth = config.depth("num_hidden_layers")
    attentions, unplayed = _attentions(config, attention, depth)
    made = {one: Module({"self_attn": one, **rest}) for one in dict.fromkeys(attentions)}
    model = causal_lm(config, [made[one] for one in attentions], Norm(hidden, style=style), unplayed=unplayed)
    return with_head(model, scaled=True) if kind in ("granite", "hyperclovax") else model


def _attentions(config: Config, attention: Attention, depth: int) -> tuple[list[Attention], tuple[str, ...]]:
    """Return the attention of every layer, equal ones equal, and what of them cannot be played."""
    kind = config.model_type
    if kind not in ("cwm", "granite_swa", "ministral", "smollm3"):
        return [attention] * depth, ()
    kinds = listed(config, depth, allowed=(SLIDING, FULL))
    if kind != "smollm3":
        usual = [SLIDING] * depth if kind == "ministral" else sliding_after_full(depth, FULL_INTERVAL)
        places, unplayed = windows(config, kinds or usual)
        if all(window is None for window in places):  # both masks are made whatever the layers are
            unplayed = ("layers without a window",)
        return [replace(attention, sliding_window=window) for window in places], unplayed
    turned = config.ints("no_rope_layers", high=1)
    if turned is None:
        interval = config.optional_int("no_rope_layer_interval") or NO_ROPE_INTERVAL
        turned = [int((index + 1) % interval != 0) for index in range(depth)]
    if len(turned) < depth:
        raise config.error("no_rope_layers", f"has {len(turned)} entries for {depth} layers")
    if kinds is None:
        slides = config.bool("use_sliding_window") and config.raw.get("sliding_window") is not None
        kinds = [SLIDING if slides and not turned[index] else FULL for index in range(depth)]
    places, unplayed = windows(config, kinds)
    return [
        replace(attention, sliding_window=window, rotary="llama" if turns else "")
        for window, turns in zip(places, turned, strict=False)
    ], unplayed
