"""What keys of config files say of a quantised base: how it is stored, and whether PEFT prepares what lies around it.

prepare_model_for_kbit_training makes tables and norms fp32. TRL left it behind by 0.27, LLaMA-Factory does not call it,
axolotl casts what it made fp32 back, but for biases, which are cast in the first pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.errors import ConfigError, UnsupportedError
from oomph.runtimes import dtype_keys
from oomph.runtimes.said import Said, shown

TYPES = {"nf4": "nf4", "fp4": "fp4"}
BITSANDBYTES = ("bnb", "bitsandbytes")
IN_EIGHT_BITS = {"method": "lora", "quantization": "int8"}
PREPARED = {"kbit_preparation": True}


def stored(said: Said, kind: str, nested: str, usually: bool) -> str:
    """Return the format of a 4-bit base, of two keys: the code, and whether its scales are quantised too.

    >>> stored(Said("a", {"double_quantization": False}), "quantization_type", "double_quantization", True)
    'nf4'
    """
    name = "nf4" if said.values.get(kind) is None else said.one_of(kind, TYPES)
    twice = usually if said.values.get(nested) is None else said.switch(nested)
    return f"{name}-dq" if twice else name


def four_bit(said: Said, key: str) -> dict[str, Any]:
    """Read 4-bit loading of a base that PEFT prepares, as in QLoRA."""
    return {"method": "qlora"} if said.switch(key) else {}


def eight_bit(said: Said, key: str) -> dict[str, Any]:
    """Read 8-bit loading of a base that PEFT prepares."""
    return {**IN_EIGHT_BITS, **PREPARED} if said.switch(key) else {}


def dora(said: Said, key: str) -> dict[str, Any]:
    """Read DoRA, whose base of 4 bits is prepared as QLoRA's is."""
    if not said.switch(key):
        return {}
    return {"method": "dora", **({"quantization": "nf4-dq", **PREPARED} if said.values.get("load_in_4bit") else {})}


def four_bit_of_trl(said: Said, key: str) -> dict[str, Any]:
    """Read the 4-bit loading of TRL's ModelConfig, whose scales stay fp32 unless told otherwise.

    Its trainers prepare nothing, and make adapters bf16: as the base, where that is loaded in bf16. Source: trl 1.16,
    trainer/model_config.py, trainer/sft_trainer.py.
    """
    if not said.switch(key):
        return {}
    kind = stored(said, "bnb_4bit_quant_type", "use_bnb_nested_quant", False)
    return {"method": "lora", "quantization": kind, **_adapters_of_trl(said)}


def eight_bit_of_trl(said: Said, key: str) -> dict[str, Any]:
    """Read the 8-bit loading of TRL's ModelConfig."""
    return {**IN_EIGHT_BITS, **_adapters_of_trl(said)} if said.switch(key) else {}


def _adapters_of_trl(said: Said) -> dict[str, Any]:
    loaded = dtype_keys.weights(said, "fp32", dtype_keys.OF_CHECKPOINTS)
    return {"adapter_dtype": "base"} if loaded == "bf16" else {}


def adapter_of_axolotl(said: Said, key: str) -> dict[str, Any]:
    """Read axolotl's `adapter`; what bitsandbytes is told beside stands in `bnb_config_kwargs`.

    Source: axolotl 0.19, loaders/model.py, _set_quantization_config, _configure_embedding_dtypes.
    """
    method: str = said.one_of(key, {"lora": "lora", "qlora": "qlora"})
    if method == "lora":
        return {"method": "lora"}
    given = said.values.get("bnb_config_kwargs") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{said.where}: bnb_config_kwargs is {shown(given)}.", "Give names and values.")
    told = Said(said.where, given)
    return {"method": "lora", "quantization": stored(told, "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", True)}


def four_bit_of_axolotl(said: Said, key: str) -> dict[str, Any]:
    """Read axolotl's 4-bit loading, which its adapter qlora asks for and no other adapter may."""
    if said.switch(key) and said.values.get("adapter") != "qlora":
        raise UnsupportedError(f"{said.where}: {key} without adapter: qlora is not modelled.", "Say adapter: qlora.")
    return {}


def eight_bit_of_axolotl(said: Said, key: str) -> dict[str, Any]:
    """Read axolotl's 8-bit loading."""
    return dict(IN_EIGHT_BITS) if said.switch(key) else {}
