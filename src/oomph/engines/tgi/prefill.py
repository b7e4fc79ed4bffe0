"""How many tokens of prompts TGI reads at once where nobody says it: by how fast its launcher holds the card to be.

So many that reading them takes a second by the launcher's own count of operations, 4,096 on a card that is not in its
table, of vision models others; at most what a request may be long, and what the launcher thinks there is memory for.

Source: text-generation-inference 3.3.7 (commit db931fc), launcher/src/main.rs (compute_optimal, vram_maximum, Config).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oomph.devices import Device

TERA = 10**12
OPERATIONS = {  # a second, in 10**12, by nvidia-smi's name of the card
    "nvidia-4090": 82, "nvidia-t4": 65, "nvidia-l4": 121, "nvidia-l40": 181, "nvidia-l40s": 363, "nvidia-a10g": 125,
    "nvidia-a40": 149, "nvidia-h100-80gb-hbm3": 900, "nvidia-h100-nvl": 900, "nvidia-h100": 900,
    "nvidia-a100-sxm4-80gb": 312, "nvidia-a100-sxm4-40gb": 312, "nvidia-a100-80gb-pcie": 312, "nvidia-a100": 312,
    "nvidia-h200": 989,
}  # fmt: skip
UNKNOWN = 4096
OF_TYPES = {"qwen2_vl": 10_000, "qwen2_5_vl": 10_000, "gemma3": 8000}
LEAST = 100  # fewer are held to be a mistake
WIGGLE_ROOM = 0.95  # here, and 0.9 where the cache is made
WIDTH = 2  # bytes of a number, whatever the format
GEMMA_HEAD = 256
LARGEST = 2**40


class _Known:
    """The numbers of a config as the launcher reads them: those on top, None where there are none."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.hidden = _whole(config, "hidden_size", "n_embd")
        self.heads = _whole(config, "num_attention_heads")
        self.kv_heads = _whole(config, "num_key_value_heads", "num_attention_heads")
        self.layers = _whole(config, "num_hidden_layers")
        self.ffn = _whole(config, "intermediate_size")
        self.words = _whole(config, "vocab_size")
        self.longest = _whole(config, "max_position_embeddings", "max_seq_len", "n_positions")
        self.active = (_whole(config, "num_experts_per_tok") or 1) + (_whole(config, "n_shared_experts") or 0)
        self.experts = _whole(config, "num_local_experts") or 1
        self.head = _head(config, self.hidden, self.heads)
        self.sees = config.get("vision_config") is not None
        packed = config.get("quantization_config")
        self.packed = isinstance(packed, dict) and packed.get("quant_method") is not None


def _whole(config: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of the named numbers that is there."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < LARGEST:
            return value
    return None


def _head(config: Mapping[str, Any], hidden: int | None, heads: int | None) -> int | None:
    said = _whole(config, "head_dim")
    if said is not None:
        return said
    if hidden and heads and hidden % heads == 0:
        return hidden // heads
    text = config.get("text_config")
    if not isinstance(text, dict):
        return None
    return _whole(text, "head_dim") or (GEMMA_HEAD if config.get("model_type") == "gemma3" else None)


def prefill_tokens(config: Mapping[str, Any], device: Device, count: int, fraction: float = 1.0) -> int:
    """Return what `--max-batch-prefill-tokens` is by itself on `count` equal devices.

    Llama 3.1 8B has 15.03e9 operations for a token by the launcher's count, and an L4 121e12 a second.
    >>> from oomph.devices import find
    >>> llama = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32}
    >>> llama |= {"intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072}
    >>> prefill_tokens(llama, find("l4"), 1), prefill_tokens(llama, find("rtx-3090"), 1)
    (8049, 4096)
    """
    known = _Known(config)
    tokens = OF_TYPES.get(str(config.get("model_type")), UNKNOWN)
    speed, each = OPERATIONS.get(device.name.replace(" ", "-").lower()), _operations(known)
    if speed is not None and each is not None and speed * TERA * count // each > LEAST:
        tokens = speed * TERA * count // each
    total = (device.driver_bytes or device.capacity_bytes) * count
    held = _held(known, int(total * fraction * WIGGLE_ROOM))
    return max(1, min(most for most in (tokens, known.longest, held) if most is not None))


def _operations(known: _Known) -> int | None:
    """Return the operations of a token, None of a model that sees or says too little."""
    if known.sees or not (known.heads and known.kv_heads and known.head and known.hidden and known.ffn):
        return None
    attention = 3 * known.heads + 2 * known.kv_heads  # queries, scores and outputs; keys and values
    mlp = 3 * known.hidden * known.ffn * known.active
    return 2 * (attention * known.head * known.hidden + mlp) * known.layers if known.layers else None


def _held(known: _Known, n_bytes: int) -> int | None:
    """Return for how many tokens there is memory, None where the launcher cannot tell or where not even weights fit."""
    if known.packed or not (known.heads and known.kv_heads and known.head and known.hidden and known.ffn):
        return None
    if not (known.layers and known.words):
        return None
    mlp = 3 * known.ffn * known.experts * known.hidden
    attention = (known.heads + 2 * known.kv_heads) * known.head + known.heads * known.head * known.hidden
    weights = ((mlp + attention) * known.layers + 2 * known.hidden * known.words) * WIDTH
    cached = 2 * known.kv_heads * known.head * known.layers * WIDTH
    made = (known.ffn + known.ffn // 2) * known.experts * 3 * WIDTH
    return (n_bytes - weights) // (cached + made) if n_bytes >= weights else None
