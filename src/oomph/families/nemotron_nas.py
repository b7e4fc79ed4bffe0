"""Nemotron-NAS (DeciLM, Llama-Nemotron Super/Ultra/51B): Llama whose every layer a search made its own.

A layer may have no attention or no MLP, a linear map in place of either, its own number of key/value heads and its
own MLP width. Structure: the code of its repositories, modeling_decilm.py and block_config.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oomph.blocks.attention import Attention
from oomph.blocks.base import Module, Part
from oomph.blocks.basic import Linear, Norm
from oomph.blocks.mlp import GatedMLP
from oomph.config import Config
from oomph.errors import ConfigError, UnsupportedError
from oomph.families.common import causal_lm, head_dim
from oomph.model import Model

TYPES: dict[str, dict[str, Any]] = {"nemotron-nas": {"tie_word_embeddings": False}}
GATED_MATRICES = 3  # ffn_mult counts H-wide pairs of matrices, as of an MLP without a gate
FFN_STEP = 256  # MLP widths are rounded up to a multiple of this
KNOWN = {"no_op", "replace_with_linear", "n_heads_in_group", "ffn_mult", "intermediate_size"}
# What changes the computation but no weight.
WEIGHTLESS = {
    "sparsify", "window_length", "num_sink_tokens", "use_prefill_window_in_sink_attention", "unshifted_sink",
    "hidden_act",
}  # fmt: skip


PLAYED_WITHOUT = WEIGHTLESS - {"hidden_act"}


def build(config: Config) -> Model:
    """Return the decoder; layers made alike are one object."""
    hidden, depth = config.size("hidden_size"), config.depth("num_hidden_layers")
    blocks = config.layer_list("block_configs", depth)
    if blocks is None:
        raise ConfigError("block_configs is missing.", "Add block_configs: it says what each layer holds.")
    made: dict[tuple[Any, ...], Module] = {}
    layers = []
    for index in range(depth):
        attention, ffn = (part_of(config, blocks[index], key, index) for key in ("attention", "ffn"))
        key = (*attention.values(), *ffn.values())
        if key not in made:
            made[key] = layer(config, hidden, Config(attention, where=f"block_configs.{index}.attention"),
                              Config(ffn, where=f"block_configs.{index}.ffn"))  # fmt: skip
        layers.append(made[key])
    return causal_lm(config, layers, Norm(hidden), unplayed=tuple(unplayed(config, blocks[:depth])))


def unplayed(config: Config, blocks: Sequence[Any]) -> Iterator[str]:
    """Yield what the tape has no rule for: windows, sinks, maps that are kept sparse."""
    parts = [block[key] for block in blocks for key in ("attention", "ffn")]
    yield from sorted({str(name) for part in parts for name in part if part[name] and name in PLAYED_WITHOUT})
    if (config.optional_int("pretraining_tp") or 1) > 1:
        yield "pretraining_tp"


def part_of(config: Config, block: Any, key: str, index: int) -> dict[str, Any]:
    """Return what one block's attention or ffn says of its weights; anything unknown that is set is refused."""
    part = block.get(key) if isinstance(block, Mapping) else None
    if not isinstance(part, Mapping):
        raise config.error("block_configs", f"has no {key} object at {index}")
    unknown = [str(name) for name in part if part[name] and name not in KNOWN | WEIGHTLESS]
    if unknown:
        raise UnsupportedError(f"oomph does not know {unknown[0][:40]!r} in block_configs[{index}].{key}.")
    said = {name: part.get(name) for name in sorted(KNOWN)}
    if any(isinstance(value, (list, Mapping)) for value in said.values()):
        raise config.error("block_configs", f"has a value of the wrong kind in {key} at {index}")
    return said


def layer(config: Config, hidden: int, attention: Config, ffn: Config) -> Module:
    """Return one layer; a part left out takes its norm with it."""
    parts: dict[str, Part] = {}
    if not attention.bool("no_op"):
        parts["input_layernorm"] = Norm(hidden)
        parts["self_attn"] = attention_part(config, hidden, attention)
    if not ffn.bool("no_op"):
        parts["post_attention_layernorm"] = Norm(hidden)
        parts["mlp"] = ffn_part(config, hidden, ffn)
    return Module(parts)


def attention_part(config: Config, hidden: int, said: Config) -> Part:
    """Return attention with heads / n_heads_in_group key/value heads, or the linear map in its place."""
    if said.bool("replace_with_linear"):
        return Module({"linear_attn": Linear(hidden, hidden)}, kind="attention")
    heads, bias = config.int("num_attention_heads"), config.bool("attention_bias")
    kv_heads = config.divide(heads, said.int("n_heads_in_group"), "groups of n_heads_in_group")
    return Attention(hidden, heads, kv_heads, head_dim(config, hidden, heads), qkv_bias=bias, out_bias=bias)


def ffn_part(config: Config, hidden: int, said: Config) -> Part:
    """Return the gated MLP, of width ffn_mult · 2/3 · H or of a width given plainly, or the linear map in its place."""
    if said.bool("replace_with_linear"):
        return Module({"linear_mlp": Linear(hidden, hidden)}, kind="mlp")
    if said.get("ffn_mult") is None:
        return GatedMLP(hidden, said.int("intermediate_size"), config.bool("mlp_bias"))
    width = int(2 * said.float("ffn_mult") * hidden / GATED_MATRICES)  # as the real code rounds: a float, then down
    if width < 1:
        raise said.error("ffn_mult", "leaves no width")
    return GatedMLP(hidden, -(-width // FFN_STEP) * FFN_STEP, config.bool("mlp_bias"))
