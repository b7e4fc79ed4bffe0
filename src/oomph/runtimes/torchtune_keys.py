"""What torchtune's recipes say of a model: its builder's name, which of its maps get adapters, how the base is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.errors import ConfigError
from oomph.runtimes.said import Said, shown

BUILDERS = "torchtune.models."
COMPONENT = "model._component_"
# Builders (torchtune 0.6.1, torchtune/models/*/_model_builders.py) by the names the catalogue has for their models.
MODELS = {
    "code_llama2_7b": "codellama-7b", "code_llama2_13b": "codellama-13b", "code_llama2_70b": "codellama-70b",
    "gemma_2b": "gemma-2b", "gemma_7b": "gemma-7b",
    "gemma2_2b": "gemma-2-2b", "gemma2_9b": "gemma-2-9b", "gemma2_27b": "gemma-2-27b",
    "llama2_7b": "llama-2-7b", "llama2_13b": "llama-2-13b", "llama2_70b": "llama-2-70b",
    "llama3_8b": "llama-3-8b", "llama3_70b": "llama-3-70b",
    "llama3_1_8b": "llama-3.1-8b", "llama3_1_70b": "llama-3.1-70b", "llama3_1_405b": "llama-3.1-405b",
    "llama3_2_1b": "llama-3.2-1b", "llama3_2_3b": "llama-3.2-3b", "llama3_3_70b": "llama-3.3-70b",
    "llama4_scout_17b_16e": "llama-4-scout", "mistral_7b": "mistral-7b",
    "phi3_mini": "phi-3-mini-4k-instruct", "phi4_14b": "phi-4",
    **{f"qwen2_{size.replace('.', '_')}": f"qwen2-{size}" for size in ("0.5b", "1.5b", "7b")},
    **{
        f"qwen2_5_{size.replace('.', '_')}": f"qwen2.5-{size}"
        for size in ("0.5b", "1.5b", "3b", "7b", "14b", "32b", "72b")
    },
    **{f"qwen3_{size.replace('.', '_')}": f"qwen3-{size}" for size in ("0.6b", "1.7b", "4b", "8b", "14b", "32b")},
}  # fmt: skip
QLORA = "qlora_"
ENDINGS = ("_base", "_instruct")  # of builders whose models differ in their weights' values alone
# Its names for maps of attention, and what apply_lora_to_mlp and apply_lora_to_output add, as transformers names them.
MAPS = {name: name for name in ("q_proj", "k_proj", "v_proj")} | {"output_proj": "o_proj"}
OF_MLP = ("gate_proj", "up_proj", "down_proj")
OF_OUTPUT = ("lm_head",)
# torchao's NF4Tensor, whose scales are quantised too, taken to be as large as bitsandbytes'.
NF4 = {"quantization": "nf4-dq", "kbit_preparation": False, "autocast": False}


def _builder(values: Mapping[str, Any]) -> str:
    component = values.get(COMPONENT)
    return component.rpartition(".")[2] if isinstance(component, str) and component.startswith(BUILDERS) else ""


def model_of(values: Mapping[str, Any]) -> str | None:
    """Return the catalogue's name of the model that a recipe builds; None where none is known.

    >>> model_of({"model._component_": "torchtune.models.llama3_1.qlora_llama3_1_8b"})
    'llama-3.1-8b'
    """
    name = _builder(values).removeprefix(QLORA).removeprefix("lora_")
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return MODELS.get(name)


def base(said: Said, key: str) -> dict[str, Any]:
    """Read a builder's name: one of QLoRA keeps the base in 4 bits."""
    return dict(NF4) if _builder(said.values).startswith(QLORA) else {}


def quantised(said: Said, key: str) -> dict[str, Any]:
    """Read `quantize_base`, which a builder's name may have said already."""
    return dict(NF4) if said.switch(key) else {}


def adapters(said: Said, key: str) -> dict[str, Any]:
    """Read the maps of attention that get adapters, and the switches for the MLP's and the head's."""
    names = said.values[key]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{said.where}: {key} is {shown(names)}.", f"Give a list of {', '.join(MAPS)}.")
    found = [str(Said(said.where, {key: name}).one_of(key, MAPS)) for name in names]
    found += OF_MLP if said.switch("model.apply_lora_to_mlp") else ()
    found += OF_OUTPUT if said.switch("model.apply_lora_to_output") else ()
    return {"targets": ",".join(found)}
