"""What keys of axolotl's configs say of kernels, plugins, experts, fake quantisers and the objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.errors import ConfigError, UnsupportedError
from oomph.methods.qat import GROUP
from oomph.runtimes.said import Said, shown

RL: dict[str, dict[str, Any]] = {name: {"objective": name} for name in ("dpo", "ipo", "kto", "orpo", "simpo", "grpo")}
EXPERTS = {name: name for name in ("grouped_mm", "eager", "batched_mm")}
SHARDED = (
    "context_parallel_size", "dp_shard_size", "expert_parallel_size", "sequence_parallel_degree",
    "tensor_parallel_size",
)  # fmt: skip
LIGER_PARTS = ("liger_rope", "liger_rms_norm", "liger_glu_activation")


def liger_part(said: Said, key: str) -> dict[str, Any]:
    """Read the switches of Liger's single kernels: all of them or none."""
    on = [part for part in LIGER_PARTS if said.switch(part)]
    if on and len(on) < len(LIGER_PARTS):
        fix = f"Set {', '.join(LIGER_PARTS)} alike."
        raise UnsupportedError(f"{said.where}: {', '.join(on)} without the other kernels is not modelled.", fix)
    return {"kernels": "liger"} if on else {}


LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")


def lora_kernels(said: Said, key: str) -> dict[str, Any]:
    """Read the switches of axolotl's LoRA kernels, which none of them switches on by itself as soon as one is said.

    Source: axolotl 0.19, utils/schemas/config.py, check_auto_enable_lora_kernels.
    """
    on = [name for name in LORA_KERNELS if said.values.get(name) is not None and said.switch(name)]
    if on and len(on) < len(LORA_KERNELS):
        fix = f"Set {', '.join(LORA_KERNELS)} alike."
        raise UnsupportedError(f"{said.where}: {', '.join(on)} without the other kernels is not modelled.", fix)
    if on and liger_part(said, key):
        raise UnsupportedError(f"{said.where}: {on[0]} beside Liger's kernels is not modelled.", "Leave one out.")
    adapter = said.values.get("adapter") in ("lora", "qlora")
    return {} if liger_part(said, key) else {"kernels": "axolotl" if on and adapter else "torch"}


def remote_code(said: Said, key: str) -> dict[str, Any]:
    """Read `trust_remote_code`, beside which axolotl's LoRA kernels do not switch themselves on."""
    return {"kernels": "torch"} if said.switch(key) else {}


PLUGINS: dict[str, dict[str, Any]] = {
    "axolotl.integrations.liger.LigerPlugin": {},  # its switches are keys of their own
    "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin": {"loss": "cut"},
    "axolotl.integrations.lm_eval.LMEvalPlugin": {},
    "axolotl.integrations.swanlab.SwanLabPlugin": {},
}


def plugins(said: Said, key: str) -> dict[str, Any]:
    """Read the plugins: that of Apple's loss is on unless `cut_cross_entropy` is false.

    Source: axolotl 0.19, integrations/cut_cross_entropy/args.py.
    """
    value = said.values[key]
    if not isinstance(value, list):
        raise ConfigError(f"{said.where}: {key} is {shown(value)}.", "Give a list of classes.")
    found: dict[str, Any] = {}
    for name in value:
        found |= Said(said.where, {key: name}).one_of(key, PLUGINS)
    return {} if said.values.get("cut_cross_entropy") is False else found


def compiled(said: Said, key: str) -> dict[str, Any]:
    """Read `torch_compile`, which "auto" switches on since torch 2.5.1 (utils/schemas/config.py)."""
    return {"compile": said.values[key] == "auto" or said.switch(key)}


ROUNDED = {"activation_dtype": "int8", "weight_dtype": "int4", "group_size": GROUP, "quantize_embedding": False}
USUALLY = {"group_size": GROUP, "quantize_embedding": False}


def fake_quantisers(said: Said, key: str) -> dict[str, Any]:
    """Read the section of quantisation-aware training: weights in int4 and inputs in int8, and nothing else."""
    value = said.values[key]
    if not isinstance(value, Mapping):
        raise ConfigError(f"{said.where}: {key} is {shown(value)}.", "Give activation_dtype and weight_dtype.")
    for name, played in ROUNDED.items():
        found = value.get(name, USUALLY.get(name))
        if found != played:
            raise UnsupportedError(
                f"{said.where}: {key} with {name} {shown(found)} is not modelled.", f"oomph plays {played}."
            )
    return {"qat": "8da4w"}
