"""What keys of config files say of a quantised base: how it is stored, and whether PEFT prepares what lies around it.

prepare_model_for_kbit_training makes tables and norms fp32. TRL left it behind by 0.27, LLaMA-Factory does not call it,
axolotl's copy leaves tables as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.errors import ConfigError
from oomph.job_words import PRESETS
from oomph.runtimes.said import Said, shown

PREPARED = {"method": "lora", "quantization": "int8", "kbit_preparation": True}
LEFT = {"method": "lora", "quantization": "int8"}
KINDS = {"nf4": "nf4", "fp4": "fp4"}
OF_AXOLOTL = {"narrow_tables": True}  # monkeypatch/peft/utils.py: embed_tokens and lm_head are passed by
FACTORY_METHODS: dict[str, dict[str, Any]] = {"bnb": {}, "bitsandbytes": {}}


def stored(said: Said, kind: str, nested: str, usually: bool) -> str:
    """Return the format of a 4-bit base, of two keys: the code, and whether its scales are quantised too.

    >>> stored(Said("a", {"double_quantization": False}), "quantization_type", "double_quantization", True)
    'nf4'
    """
    name = "nf4" if said.values.get(kind) is None else said.one_of(kind, KINDS)
    twice = usually if said.values.get(nested) is None else said.switch(nested)
    return f"{name}-dq" if twice else name


def four_bit(said: Said, key: str) -> dict[str, Any]:
    """Read 4-bit loading of a base that PEFT prepares, as in QLoRA."""
    return {"method": "qlora"} if said.switch(key) else {}


def eight_bit(said: Said, key: str) -> dict[str, Any]:
    """Read 8-bit loading of a base that PEFT prepares."""
    return dict(PREPARED) if said.switch(key) else {}


def four_bit_of_trl(said: Said, key: str) -> dict[str, Any]:
    """Read the 4-bit loading of TRL's ModelConfig, whose scales stay fp32 unless told otherwise.

    Its trainers cast adapters to bf16 and prepare nothing. Source: trl 1.16, trainer/model_config.py, sft_trainer.py.
    """
    if not said.switch(key):
        return {}
    return {"method": "lora", "quantization": stored(said, "bnb_4bit_quant_type", "use_bnb_nested_quant", False)}


def eight_bit_of_trl(said: Said, key: str) -> dict[str, Any]:
    """Read the 8-bit loading of TRL's ModelConfig."""
    return dict(LEFT) if said.switch(key) else {}


def adapter_of_axolotl(said: Said, key: str) -> dict[str, Any]:
    """Read axolotl's `adapter`; what bitsandbytes is told beside stands in `bnb_config_kwargs`.

    Source: axolotl 0.19, loaders/model.py.
    """
    method: str = said.one_of(key, {"lora": "lora", "qlora": "qlora"})
    if method == "lora":
        return {"method": "lora"}
    given = said.values.get("bnb_config_kwargs") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"{said.where}: bnb_config_kwargs is {shown(given)}.", "Give names and values.")
    told = Said(said.where, given)
    name = stored(told, "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", True)
    return {"method": "qlora", "quantization": name, **OF_AXOLOTL}


def bits_of_factory(said: Said, key: str) -> dict[str, Any]:
    """Read LLaMA-Factory's `quantization_bit`: 4 or 8 bits of bitsandbytes, and nothing prepared around them.

    Source: LLaMA-Factory 0.9.5, model/model_utils/quantization.py, model/adapter.py.
    """
    bits = said.whole(key)
    if bits == 8:
        return dict(LEFT)
    if bits != 4:
        raise ConfigError(f"{said.where}: {key} is {bits}.", "bitsandbytes has 4 and 8.")
    return {"method": "lora", "quantization": stored(said, "quantization_type", "double_quantization", True)}


def dora(said: Said, key: str) -> dict[str, Any]:
    """Read DoRA, which goes with the base that is said beside it."""
    return {"method": "dora"} if said.switch(key) else {}


def prepared_dora(said: Said, key: str) -> dict[str, Any]:
    """Read DoRA where a base of 4 bits is prepared as QLoRA's is."""
    if not said.switch(key):
        return {}
    narrow = said.values.get("load_in_4bit") is True or said.values.get("adapter") == "qlora"
    return {"method": "dora", **(PRESETS["qlora"] if narrow else {})}
