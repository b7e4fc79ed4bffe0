"""What ms-swift's arguments say, of `swift sft` and `swift pt` in a YAML file.

Source: ms-swift 4.6, swift/arguments (sft_args.py, tuner_args.py, base_args/), swift/pipelines/train/tuner.py,
swift/trainers (arguments.py, mixin.py), swift/tuners/peft.py, swift/config/*.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.errors import UnsupportedError
from oomph.runtimes import deepspeed
from oomph.runtimes.base_keys import stored
from oomph.runtimes.dtype_keys import WORDS
from oomph.runtimes.said import Said, shown
from oomph.runtimes.trainer import mixed

TUNER = ("tuner_type", "train_type")  # the latter up to 3.x
TUNERS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "full": {"method": "full"},
    "adalora": {"method": "adalora", "rank": 12},  # adalora_init_r
    "boft": {"method": "boft", "block_size": 4},  # boft_block_size
}
UNPLAYED = {
    "longlora": "attention in shifted groups", "llamapro": "blocks that are added", "adapter": "bottlenecks",
    "reft": "interventions on states", "fourierft": "spectra of weights", "bone": "blocks of weights",
    "vera": "of maps it takes those of one shape alone", "ia3": "it scales what all linear maps return",
    "lora_llm": "a tower that trains beside adapters",
}  # fmt: skip
ROWS_OF_A_STEP = 16  # what accumulation makes up where it is not said
HQQ = (8, 4, 3, 2, 1)
EIGHT = 8
ATTENTION = {"flash_attn": "flash_attention_2", "flash_attention_2": "flash_attention_2",
             "flash_attention_3": "flash_attention_3", "sdpa": "flash", "eager": "eager"}  # fmt: skip
LONG = {"delete": "drop", "left": "cut", "right": "cut", "split": "cut"}
ZERO: dict[str, dict[str, Any]] = {
    **{f"zero{stage}": {"stage": stage} for stage in range(4)},
    **{f"zero{stage}_offload": {"stage": stage, "offload_optimizer": {"device": "cpu"}} for stage in (2, 3)},
}
BUCKET = 200_000_000  # reduce_bucket_size of zero1 and zero2
REFUSED: dict[str, str] = {
    "fsdp": "oomph plays one GPU",
    "device_map": "layers on several GPUs",
    "enable_dft_loss": "a loss of its own",
    "enable_channel_loss": "a loss of its own",
    "external_plugins": "code of the user's own",
    "freeze_llm": "towers that train alone",
    "freeze_parameters": "parts that train",
    "freeze_parameters_ratio": "parts that train",
    "freeze_parameters_regex": "parts that train",
    "galore_quantization": "Q-GaLore as it has it",
    "loss_type": "a loss of its own",
    "new_special_tokens": "rows that are added to the tables",
    "num_labels": "a classifier",
    "sequence_parallel_size": "oomph plays one GPU",
    "target_parameters": "adapters on stacked experts",
    "target_regex": "targets by a pattern: say target_modules",
    "tensor_model_parallel_size": "Megatron's own code runs then",
    "trainable_parameters": "parts that train",
    "trainable_parameters_regex": "parts that train",
    "use_galore": "GaLore as it has it",
    "use_swift_lora": "adapters of its own",
    "use_flash_ckpt": "checkpoints in shared memory",
}


def tuner(said: Said, key: str) -> dict[str, Any]:
    """Read what trains; where nothing else is said, a step is of 16 samples."""
    value = said.values[key]
    if isinstance(value, str) and value in UNPLAYED:
        raise UnsupportedError(f"{said.where}: {key} {value} is not modelled: {UNPLAYED[value]}.", "Take lora or full.")
    found = dict(said.one_of(key, TUNERS))
    if said.values.get("gradient_accumulation_steps") is None:
        batch = 1
        if said.values.get("per_device_train_batch_size") is not None:
            batch = said.whole("per_device_train_batch_size")
        found["accumulation"] = -(-ROWS_OF_A_STEP // batch)
    return found


def dtypes(said: Said, key: str) -> dict[str, Any]:
    """Read `torch_dtype`, `bf16` and `fp16`, all at once: bf16 of itself where weights are in bf16, else fp16."""
    loaded = "bf16" if said.values.get("torch_dtype") is None else said.one_of("torch_dtype", WORDS)
    usual = {"bf16": loaded == "bf16", "fp16": loaded != "bf16"}
    on = [name for name, default in usual.items() if (said.values.get(name, default) if default else said.switch(name))]
    if not on:
        return {"precision": loaded, "autocast": False, "fp32_outputs": False}
    return {"autocast": False, **mixed(on[0], loaded)}


def adapter_dtype(said: Said, key: str) -> dict[str, Any]:
    """Read `lora_dtype`, which keeps PEFT from making adapters fp32."""
    dtype = said.one_of(key, WORDS)
    loaded = "bf16" if said.values.get("torch_dtype") is None else said.one_of("torch_dtype", WORDS)
    if dtype not in ("fp32", loaded):
        raise UnsupportedError(
            f"{said.where}: {key} {dtype} over weights in {loaded} is not modelled.", "Leave it out."
        )
    return {"adapter_dtype": "fp32" if dtype == "fp32" else "base"}


def targets(said: Said, key: str) -> dict[str, Any]:
    """Read the maps that get adapters."""
    value = said.values[key]
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(one, str) for one in names):
        raise UnsupportedError(f"{said.where}: {key} {shown(value)} is not modelled.", "Give a list of names.")
    if "all-embedding" in names:
        raise UnsupportedError(f"{said.where}: {key} all-embedding is not modelled.", "Name the maps.")
    return {"targets": "all-linear" if "all-linear" in names else ",".join(names)}


def checkpointing(said: Said, key: str) -> dict[str, Any]:
    """Read the switch of checkpointing, and the way that its arguments ask for."""
    if said.values.get("gradient_checkpointing") is not None and not said.switch("gradient_checkpointing"):
        return {"checkpointing": "none"}
    options = said.values.get("gradient_checkpointing_kwargs") or {}
    asked = options.get("use_reentrant") if isinstance(options, Mapping) else None
    return {"checkpointing": "non-reentrant" if asked is False else "reentrant"}


def base(said: Said, key: str) -> dict[str, Any]:
    """Read `quant_method` with `quant_bits`: bitsandbytes or HQQ."""
    how = said.one_of("quant_method", {"bnb": "bnb", "hqq": "hqq"})
    given = Said(said.where, {"quant_bits": said.values.get("quant_bits")})
    if how == "hqq":
        return {"quantization": f"hqq-{given.one_of_numbers('quant_bits', HQQ)}bit"}
    if given.one_of_numbers("quant_bits", (4, 8)) == EIGHT:
        return {"quantization": "int8"}
    return {"quantization": stored(said, "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", True)}


def towers(said: Said, key: str) -> dict[str, Any]:
    """Read `freeze_vit` and `freeze_aligner`, which oomph knows alike."""
    both = [said.values.get(name) is None or said.switch(name) for name in ("freeze_vit", "freeze_aligner")]
    if both[0] != both[1]:
        fix = "Set both alike."
        raise UnsupportedError(f"{said.where}: freeze_vit and freeze_aligner apart are not modelled.", fix)
    return {"freeze_vision": both[0]}


def zero(said: Said, key: str) -> dict[str, Any]:
    """Read the name of one of its own configs of DeepSpeed; a mapping is read elsewhere."""
    value = said.values[key]
    if isinstance(value, Mapping) or not value:
        return {}
    section = {**said.one_of(key, ZERO), "overlap_comm": False, "reduce_bucket_size": BUCKET}
    return deepspeed.fields_of({"zero_optimization": section, "bf16": {"enabled": True}}, said.where)


def preferences(said: Said, key: str) -> dict[str, Any]:
    """Refuse its trainers of preferences: they compute log-probabilities in a way of their own."""
    problem = f"{said.where}: {key} {shown(said.values[key])} is not modelled as ms-swift computes it."
    raise UnsupportedError(problem, "Near it: oomph train MODEL --framework trl --objective dpo, typed.")


def plugin(said: Said, key: str) -> dict[str, Any]:
    """Read `optimizer`: LoRA+ has other rates alone."""
    return dict(said.one_of(key, {"default": {}, "lorap": {}}))


def lisa(said: Said, key: str) -> dict[str, Any]:
    """Read how many layers train at a time, 0 for all."""
    return {} if said.values[key] == 0 else {"method": "lisa", "active_layers": said.whole(key)}


def backend(said: Said, key: str) -> dict[str, Any]:
    """Read whose adapters they are."""
    return dict(said.one_of(key, {"peft": {}}))


def task(said: Said, key: str) -> dict[str, Any]:
    """Read what the model is trained for."""
    return dict(said.one_of(key, {"causal_lm": {}}))
