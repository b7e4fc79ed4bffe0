"""How weights are stored. One file per format; each holds `VARIANTS`: name -> Format.

A file that a config.json's `quantization_config` can ask for also has
`from_config(quantization: Mapping, rest: str) -> Format`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from oomph.errors import ConfigError, UnsupportedError, UsageError, close_matches, letters
from oomph.formats.base import Format
from oomph.formats.registry import FORMATS, QUANT_METHODS

# Where a config.json keeps what its weights are quantised with, and the nested configs that may hold it.
_KEYS = ("quantization_config", "compression_config")
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
_MLX = frozenset({"group_size", "bits"})  # what MLX writes, under "quantization" too, naming no method

NAMED = 16  # formats named in a message
USUAL = "bf16, fp8, int8, nf4, gptq-4bit-g128, awq, q8_0, q4_k_m"
# What people call formats of several libraries, or of one that has some.
FOUR_BITS = "nf4 and nf4-dq (bitsandbytes), awq, gptq-4bit-g128, q4_k_m (llama.cpp), mlx-4bit"
EIGHT_BITS = "int8 (bitsandbytes), fp8, gptq-8bit-g128, w8a8, q8_0 (llama.cpp), mlx-8bit"
LOOSE = {
    **dict.fromkeys(("4bit", "4bits", "int4", "q4", "w4"), FOUR_BITS),
    **dict.fromkeys(("8bit", "8bits", "q8", "w8"), EIGHT_BITS),
    **dict.fromkeys(("bnb", "bitsandbytes"), "nf4, nf4-dq, fp4, int8"),
    **dict.fromkeys(("bnb4bit", "bitsandbytes4bit", "loadin4bit", "qlora"), "nf4, nf4-dq, fp4"),
    "gptq": "gptq-4bit-g128 (most of them), gptq-4bit-g32, gptq-8bit-g128, gptq-3bit-g128",
    "gguf": "q4_k_m, q5_k_m, q6_k, q8_0, iq4_xs, gguf-f16",
    **dict.fromkeys(("float16", "half"), "fp16"),
    "bfloat16": "bf16",
    "float32": "fp32",
}


def get(name: str) -> Format:
    """Return the format of this name, e.g. bf16, nf4, q4_k_m."""
    key = name.strip().lower()
    if key.startswith("ud-"):
        from oomph.formats import gguf

        raise gguf.refuse(name)
    if key not in FORMATS:
        raise UsageError(f"There is no format {name[:60]!r}.", _instead(key))
    found: Format = import_module(f"oomph.formats.{FORMATS[key]}").VARIANTS[key]
    return found


def _instead(key: str) -> str:
    """Return the formats that may have been meant: those that begin like it, else close ones, else the usual ones."""
    begin = [name for name in FORMATS if key and name.startswith(f"{key}-")]
    if letters(key) in LOOSE:
        return f"Say which: {LOOSE[letters(key)]}; docs/formats.md has all."
    if begin:
        return f"Say which: {', '.join(begin[:NAMED])}{' ...' * (len(begin) > NAMED)}"
    return close_matches(key, FORMATS) or f"Some that there are: {USUAL}; docs/formats.md has all."


def asked_for(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the quantization_config of a config.json, wherever it keeps it; None for full precision.

    DeepSeek-V4 says beside it, not in it, that its experts have 4 bits (expert_dtype).
    """
    for section in (raw, *(raw.get(key) for key in _NESTED)):
        for key in _KEYS:
            found = section.get(key) if isinstance(section, Mapping) else None
            if found is None:
                continue
            if not isinstance(found, Mapping):
                raise ConfigError(f"{key} is not an object.", "Correct it in config.json.")
            return {"expert_dtype": raw["expert_dtype"], **found} if "expert_dtype" in raw else found
    mlx = raw.get("quantization")
    return mlx if isinstance(mlx, Mapping) and mlx.keys() >= _MLX else None


def method_of(quantization: Mapping[str, Any]) -> str:
    """Return the method of a quantization_config, also where an old file does not name it."""
    method = str(quantization.get("quant_method", "")).lower()
    if quantization.get("quant_algo") or isinstance(quantization.get("quantization"), Mapping):
        return "modelopt"  # its mixed checkpoints may name the method of the one they were made from
    if not method and quantization.keys() >= _MLX:
        return "mlx"
    if not method and (quantization.get("load_in_8bit") or quantization.get("load_in_4bit")):
        return "bitsandbytes"
    return method


def from_config(quantization: Mapping[str, Any], rest: str) -> Format:
    """Return the format that a config.json's quantization_config asks for; `rest` is the model's own dtype."""
    method = method_of(quantization)
    if method not in QUANT_METHODS:
        raise UnsupportedError(
            f"oomph does not know the quantization method {method[:60]!r}.",
            close_matches(method, QUANT_METHODS) or "Name a format yourself: --format bf16.",
        )
    found: Format = import_module(f"oomph.formats.{QUANT_METHODS[method]}").from_config(quantization, rest)
    return found


def source_of(name: str) -> str:
    """Return where the rule of a format comes from: the Source paragraph of its file; '' for plain dtypes.

    >>> source_of("nf4").startswith("bitsandbytes"), source_of("bf16")
    (True, '')
    """
    home = FORMATS.get(name, "plain")
    if home == "plain":
        return ""
    doc = import_module(f"oomph.formats.{home}").__doc__ or ""
    return " ".join(doc.partition("\nSource:")[2].partition("\n\n")[0].split())
