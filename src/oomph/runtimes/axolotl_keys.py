"""What keys of axolotl's configs say of kernels, plugins, experts, fake quantisers and the objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oomph.errors import ConfigError, UnsupportedError
from oomph.methods.qat import GROUP
from oomph.runtimes.said import Said, shown

RL: dict[str, dict[str, Any]] = {name: {"objective": name} for name in ("dpo", "ipo", "kto", "orpo", "simpo", "grpo")}
RL["gdpo"] = {"objective": "grpo"}  # whose rewards are normalised one by one, before the update
EXPERTS = {name: name for name in ("grouped_mm", "eager", "batched_mm")}
SHARDED = (
    "context_parallel_size", "dp_shard_size", "expert_parallel_size", "sequence_parallel_degree",
    "tensor_parallel_size",
)  # fmt: skip
LIGER = {"liger_rope": "rope", "liger_rms_norm": "norm", "liger_glu_activation": "glu"}
LORA_KERNELS = {"lora_mlp_kernel": "mlp", "lora_qkv_kernel": "qkv", "lora_o_kernel": "o"}
KERNELS = (*LIGER, *LORA_KERNELS, "lora_embedding_kernel", "trust_remote_code")


def kernels(said: Said, key: str) -> dict[str, Any]:
    """Read the switches of Liger's kernels and of axolotl's LoRA kernels, all at once.

    The latter are on with adapters unless one of them is said, or remote code is trusted: then nothing is said of
    `kernels` here, and the program's default takes them. Source: axolotl 0.19, utils/schemas/config.py,
    check_auto_enable_lora_kernels; integrations/liger/plugin.py.
    """
    liger = [part for name, part in LIGER.items() if said.switch(name)]
    told = any(said.values.get(name) is not None for name in (*LORA_KERNELS, "lora_embedding_kernel"))
    lora = [part for name, part in LORA_KERNELS.items() if said.values.get(name) is not None and said.switch(name)]
    adapter = said.values.get("adapter") in ("lora", "qlora")
    if lora and adapter:
        return {
            "kernels": "axolotl",
            "kernel_parts": _listed([*(lora if len(lora) < len(LORA_KERNELS) else ()), *liger]),
        }
    if adapter and not told and not said.switch("trust_remote_code") and _may_be_on(said):
        return {"kernel_parts": _listed(liger)}
    if liger:
        return {"kernels": "liger", "kernel_parts": _listed(liger if len(liger) < len(LIGER) else ())}
    return {"kernels": "torch"} if told or said.switch("trust_remote_code") else {}


def whole_batch(said: Said, key: str) -> dict[str, Any]:
    """Read `batch_size`, all samples of a step, by which micro-batches are counted if nothing else is said of them.

    Source: axolotl 0.19, utils/config/__init__.py, normalize_config.
    """
    if said.values.get("gradient_accumulation_steps") is not None:
        return {}
    return {"accumulation": max(said.whole(key) // said.whole("micro_batch_size"), 1)}


def _may_be_on(said: Said) -> bool:
    """Tell whether nothing else that is said keeps the LoRA kernels from being on: rl, a base in 8 bits, DoRA."""
    in_eight_bits = said.values.get("adapter") == "lora" and said.switch("load_in_8bit")
    return not (
        said.values.get("rl") or said.values.get("reward_model") or in_eight_bits or said.switch("peft_use_dora")
    )


def _listed(parts: Sequence[str]) -> str:
    return ",".join(parts)


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
