"""What keys of config files mean for a job, by framework; what moves memory and is not modelled is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.errors import ConfigError, UnsupportedError
from oomph.job_words import FLASH_ATTN, FLASH_ATTN_NAMES, PRESETS
from oomph.methods.qat import GROUP
from oomph.runtimes import llama_factory_keys, ppo_keys, torchtune_keys
from oomph.runtimes.optimizer_keys import factory_projection, optimizer, optimizer_arguments, projected_modules
from oomph.runtimes.said import Reader, Said, shown
from oomph.runtimes.trainer import mixed


def number(field: str) -> Reader:
    """Return the reader of a whole number."""
    return lambda said, key: {field: said.whole(key)}


def refused(why: str) -> Reader:
    """Return the reader of what is not modelled: anything but false, none or 1 is refused."""

    def read(said: Said, key: str) -> dict[str, Any]:
        value = said.values[key]
        if value is True or value not in (False, None, 1, "", "no", "NO", "none", 0, [], {}):
            raise UnsupportedError(f"{said.where}: {key} is not modelled: {why}.", "Leave it out, or trace the job.")
        return {}

    return read


WORDS_FOR_DTYPE = {
    "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "float32": "fp32", "fp32": "fp32",
    "torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.float32": "fp32",
}  # fmt: skip


def _weights(said: Said, default: str) -> str:
    for key in ("torch_dtype", "dtype"):
        if isinstance(said.values.get(key), str) and said.values[key] != "auto":
            found: str = said.one_of(key, WORDS_FOR_DTYPE)
            return found
    return default


def low(dtype: str, weights: str = "fp32") -> Reader:
    """Return the reader of `bf16: true`: mixed precision over weights that are `weights` unless the config says."""

    def read(said: Said, key: str) -> dict[str, Any]:
        return mixed(dtype, _weights(said, weights)) if said.values[key] in (True, "auto", "true") else {}

    return read


def plain_dtype(said: Said, key: str) -> dict[str, Any]:
    """Read a dtype of weights where no mixed precision is on."""
    if said.values[key] == "auto" or said.values.get("bf16") or said.values.get("fp16"):
        return {}
    return {"precision": said.one_of(key, WORDS_FOR_DTYPE)}


def of_loaded(said: Said, key: str) -> dict[str, Any]:
    """Read a dtype of weights over which nothing is cast."""
    return {} if said.values[key] == "auto" else {"precision": said.one_of(key, WORDS_FOR_DTYPE), "fp32_outputs": False}


IN_HOST_MEMORY = ("offload", "offload_disk", "unsloth")  # axolotl's ways with gradient_checkpointing


def checkpointing(said: Said, key: str) -> dict[str, Any]:
    """Read `gradient_checkpointing`, and the way it is asked for."""
    if isinstance(said.values[key], str) and said.values[key] in IN_HOST_MEMORY:
        why = f"{said.where}: {key} {said.values[key]} is not modelled: it keeps what layers begin with in host memory."
        raise UnsupportedError(why, "Say true: the estimate is then higher by those tensors.")
    if not said.switch(key):
        return {"checkpointing": "none"}
    options = said.values.get("gradient_checkpointing_kwargs") or {}
    reentrant = options.get("use_reentrant", False) if isinstance(options, Mapping) else False
    return {"checkpointing": "reentrant" if reentrant else "non-reentrant", "use_cache": False}


def clipping(said: Said, key: str) -> dict[str, Any]:
    """Read the largest norm: 0 is no clipping."""
    return {"clip_gradients": bool(said.values[key])}


def targets(said: Said, key: str) -> dict[str, Any]:
    """Read which modules get adapters."""
    value = said.values[key]
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise ConfigError(f"{said.where}: {key} is no list of names.", "Give names of modules, or all-linear.")
    words = [one.strip() for one in names]
    return {"targets": "all-linear" if words in (["all"], ["all-linear"]) else ",".join(words)}


ATTENTION: dict[str, str] = {
    **FLASH_ATTN_NAMES, **{name: name for name in FLASH_ATTN},
    "sdpa": "flash", "auto": "flash", "eager": "eager", "disabled": "eager",
}  # fmt: skip


def attention(said: Said, key: str) -> dict[str, Any]:
    """Read the attention's implementation; sdpa takes flash where there is no mask."""
    return {"attention": said.one_of(key, ATTENTION)}


def packed(said: Said, key: str) -> dict[str, Any]:
    """Read packing: flash_attn tells sequences apart itself, any other way takes a mask."""
    flash = (
        said.values.get("flash_attention")
        or "flash" in str(said.values.get("attn_implementation"))
        or str(said.values.get("flash_attn")) in FLASH_ATTN_NAMES
    )
    return {"packing": said.switch(key) and not flash}


def when(field: str, value: Any) -> Reader:
    """Return the reader of a switch that sets a field if it is on."""
    return lambda said, key: {field: value} if said.switch(key) else {}


EIGHT_BITS = {"method": "lora", "quantization": "int8", "kbit_preparation": True}


def liger(said: Said, key: str) -> dict[str, Any]:
    """Read the switch of all that Liger has for a model: its loss and its kernels."""
    return {"loss": "liger", "kernels": "liger"} if said.switch(key) else {}


def unsloth(said: Said, key: str) -> dict[str, Any]:
    """Read the switch of Unsloth's model and adapters, which come with its checkpointing and its loss."""
    return dict.fromkeys(("kernels", "checkpointing", "loss"), "unsloth") if said.switch(key) else {}


LIGER_PARTS = ("liger_rope", "liger_rms_norm", "liger_glu_activation")


def liger_part(said: Said, key: str) -> dict[str, Any]:
    """Read axolotl's switches of single kernels: all of them or none."""
    on = [part for part in LIGER_PARTS if said.switch(part)]
    if on and len(on) < len(LIGER_PARTS):
        fix = f"Set {', '.join(LIGER_PARTS)} alike."
        raise UnsupportedError(f"{said.where}: {', '.join(on)} without the other kernels is not modelled.", fix)
    return {"kernels": "liger"} if on else {}


def four_bit(said: Said, key: str) -> dict[str, Any]:
    """Read 4-bit loading of the base, or a number of bits."""
    if said.values[key] == 8:
        return dict(EIGHT_BITS)
    return {"method": "qlora"} if said.values[key] in (True, 4) else {}


def eight_bit(said: Said, key: str) -> dict[str, Any]:
    """Read 8-bit loading of the base, which PEFT prepares."""
    return dict(EIGHT_BITS) if said.switch(key) else {}


def dora(said: Said, key: str) -> dict[str, Any]:
    """Read DoRA, which a 4-bit base goes with."""
    if not said.switch(key):
        return {}
    narrow = any(said.values.get(name) in (True, 4) for name in FOUR_BIT_KEYS) or said.values.get("adapter") == "qlora"
    return {"method": "dora", **(PRESETS["qlora"] if narrow else {})}


ROUNDED = {"activation_dtype": "int8", "weight_dtype": "int4", "group_size": GROUP, "quantize_embedding": False}
USUALLY = {"group_size": GROUP, "quantize_embedding": False}


def fake_quantisers(said: Said, key: str) -> dict[str, Any]:
    """Read axolotl's section of quantisation-aware training: weights in int4 and inputs in int8, and nothing else."""
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


FOUR_BIT_KEYS = ("load_in_4bit", "quantization_bit")


def rate(field: str) -> Reader:
    """Return the reader of a rate of dropout."""
    return lambda said, key: {field: said.rate(key)}


LOSS_TYPES: dict[str, dict[str, Any]] = {  # of TRL's SFTConfig and DPOConfig
    "nll": {},
    "chunked_nll": {"loss": "chunked-nll"},
    "sigmoid": {"objective": "dpo"},
    "ipo": {"objective": "ipo"},
    "kto": {"objective": "kto"},
    # of GRPOConfig: what the sum over tokens is divided by
    **{name: {"objective": "grpo"} for name in ("dapo", "grpo", "bnpo", "dr_grpo")},
}


def loss_type(said: Said, key: str) -> dict[str, Any]:
    """Read TRL's `loss_type`, of any of its configs; SimPO is CPOConfig's with nothing added."""
    if said.values[key] == "simpo" and said.values.get("cpo_alpha") in (0, 0.0):
        return {"objective": "simpo"}
    value = said.values[key]
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    found: dict[str, Any] = Said(said.where, {key: one}).one_of(key, LOSS_TYPES)
    return _grpo(said) if found.get("objective") == "grpo" else found


def _grpo(said: Said) -> dict[str, Any]:
    return {"objective": "grpo" if said.values.get("beta") in (None, 0, 0.0) else "grpo-kl"}


def completions(said: Said, key: str) -> dict[str, Any]:
    """Read that answers are generated and rewarded: GRPO, whose sequences are a prompt and an answer."""
    found = _grpo(said)
    if said.values.get("max_completion_length") and said.values.get("max_prompt_length"):
        prompt_len = said.whole("max_prompt_length")
        found |= {"prompt_len": prompt_len, "seq_len": prompt_len + said.whole("max_completion_length")}
    return found


def teacher(said: Said, key: str) -> dict[str, Any]:
    """Read the name of a teacher; beta says which divergence it is: GKDConfig's 1 is played by no objective.

    A limit of completions is DistillationConfig's, of whose betas 1 is played, its default.
    """
    name, beta = said.values[key], said.values.get("beta", 0.5)
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{said.where}: {key} is {shown(name)}.", "Give the name of a model.")
    if "max_completion_length" in said.values:
        if said.values.get("beta", 1) != 1:
            raise UnsupportedError(
                f"{said.where}: beta {shown(beta)} of DistillationConfig is not modelled.", "Take 1."
            )
        return {"objective": "distill", "teacher": name}
    if beta == 1:
        raise UnsupportedError(f"{said.where}: beta 1 of GKD is not modelled.", "Take 0, or what lies between.")
    return {"objective": "gkd-kl" if beta == 0 else "gkd", "teacher": name}


RL: dict[str, dict[str, Any]] = {
    name: {"objective": name} for name in ("dpo", "ipo", "kto", "orpo", "simpo", "grpo")
}  # axolotl's word for objectives


DTYPES = ("dtype", "torch_dtype")


def elsewhere(said: Said, key: str) -> dict[str, Any]:
    """Leave a config of DeepSpeed's to deepspeed.py; the name of a file is one that is not there."""
    value = said.values[key]
    if isinstance(value, Mapping):
        value = value.get("deepspeed_config_file") or None
    if value:
        fix = "Put what it says in its place, or the file beside the config."
        raise ConfigError(f"{said.where}: {key} names {shown(value)}, which is not there.", fix)
    return {}


def modules(field: str) -> Reader:
    """Return the reader of a list of modules' names."""

    def read(said: Said, key: str) -> dict[str, Any]:
        value = said.values[key]
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise ConfigError(f"{said.where}: {key} is no list of names.", "Give names of modules.")
        return {field: ",".join(one.strip() for one in names)}

    return read


def four_bit_of_qlora(said: Said, key: str) -> dict[str, Any]:
    """Read axolotl's 4-bit loading, which its adapter qlora asks for and no other adapter may."""
    if said.switch(key) and said.values.get("adapter") != "qlora":
        raise UnsupportedError(f"{said.where}: {key} without adapter: qlora is not modelled.", "Say adapter: qlora.")
    return {}


def compiled(said: Said, key: str) -> dict[str, Any]:
    """Read `torch_compile`, which axolotl's "auto" leaves off."""
    return {} if said.values[key] == "auto" else when("compile", True)(said, key)


KERNELS = "oomph does not know that kernel"
EXPERTS = {name: name for name in ("grouped_mm", "eager", "batched_mm")}
AXOLOTL_SHARDED = (
    "context_parallel_size", "dp_shard_size", "expert_parallel_size", "sequence_parallel_degree",
    "tensor_parallel_size",
)  # fmt: skip
FACTORY_SHARDED = (
    "context_parallel_size", "expert_model_parallel_size", "pipeline_model_parallel_size", "sequence_parallel",
    "tensor_model_parallel_size",
)  # fmt: skip
SHARDED = "oomph plays one GPU"
_BATCH: dict[str, Reader] = {
    "gradient_accumulation_steps": number("accumulation"),
    "max_grad_norm": clipping,
    "gradient_checkpointing": checkpointing,
    "deepspeed": elsewhere,
    "fsdp": refused(SHARDED),
    "fsdp_config": refused(SHARDED),
}
_TRAINER: dict[str, Reader] = {
    "dtype": plain_dtype,
    "torch_dtype": plain_dtype,
    "bf16": low("bf16"),
    "fp16": low("fp16"),
    "per_device_train_batch_size": number("batch"),
    **_BATCH,
    "optim": optimizer,
    "optim_args": optimizer_arguments,
    "optim_target_modules": projected_modules,
    "attn_implementation": attention,
    "use_liger_kernel": liger,
    "torch_compile": when("compile", True),
    "auto_find_batch_size": refused("the batch is then unknown"),
    "activation_offloading": refused("it is TRL's"),
    "use_peft": when("method", "lora"),
    "lora_r": number("rank"),
    "lora_dropout": rate("adapter_dropout"),
    "lora_target_modules": targets,
    "load_in_8bit": eight_bit,
    "load_in_4bit": four_bit,
    "use_dora": dora,
}
READERS: dict[str, dict[str, Reader]] = {
    "trainer": _TRAINER,
    "trl": {
        **_TRAINER,
        "max_length": number("seq_len"),
        "max_seq_length": number("seq_len"),
        "packing": packed,
        **dict.fromkeys(("num_generations", "reward_funcs"), completions),
        "activation_offloading": when("activation_offload", "trl"),
        "loss_type": loss_type,
        "teacher_model_name_or_path": teacher,
        "precompute_ref_log_probs": when("reference", "precomputed"),
        "disable_dropout": lambda said, key: {"dropout": not said.switch(key)},
        "padding_free": refused("flattened batches"),
        "sync_ref_model": refused("a reference that follows the policy"),
        "use_weighting": refused("weighted pairs"),
    },
    "ppo": {
        "reward_model_path": ppo_keys.judged,
        "dtype": of_loaded,
        "torch_dtype": of_loaded,
        "bf16": ppo_keys.narrow,
        "fp16": refused("fp16 and its scaler"),
        **{key: reader for key, reader in _TRAINER.items() if key not in (*ppo_keys.LEFT_ALONE, "fp16", *DTYPES)},
        "num_mini_batches": number("mini_batches"),
        "local_rollout_forward_batch_size": number("rollout_batch"),
    },
    "axolotl": {
        "bf16": low("bf16", "bf16"),
        "fp16": low("fp16", "fp16"),
        "micro_batch_size": number("batch"),
        "sequence_len": number("seq_len"),
        **_BATCH,
        "optimizer": optimizer,
        "rl": lambda said, key: said.one_of(key, RL),
        "precompute_ref_log_probs": when("reference", "precomputed"),
        "activation_offloading": refused("axolotl's way with activations in host memory"),
        "adapter": lambda said, key: {"method": said.one_of(key, {"lora": "lora", "qlora": "qlora"})},
        "lora_r": number("rank"),
        "lora_dropout": rate("adapter_dropout"),
        "lora_target_modules": targets,
        "lora_target_linear": when("targets", "all-linear"),
        "load_in_8bit": eight_bit,
        "peft_use_dora": dora,
        "quantize_moe_experts": when("quantised_experts", True),
        "lora_modules_to_save": modules("modules_to_save"),
        "lora_target_parameters": refused("adapters on stacked experts"),
        "load_in_4bit": four_bit_of_qlora,
        "gptq": refused("its way with GPTQ's bases"),
        "sample_packing": packed,
        "flash_attention": when("attention", "flash_attention_2"),
        "eager_attention": when("attention", "eager"),
        "attn_implementation": attention,
        **dict.fromkeys(("xformers_attention", "flex_attention", "sage_attention", "s2_attention"), refused(KERNELS)),
        "experts_implementation": lambda said, key: {"experts": said.one_of(key, EXPERTS)},
        "reward_model": when("objective", "reward"),
        "torch_compile": compiled,
        **dict.fromkeys(AXOLOTL_SHARDED, refused(SHARDED)),
        "relora": refused("adapters that are merged and begun anew"),
        "tiled_mlp": refused("an MLP in tiles"),
        "layer_offloading": refused("layers that wait in host memory"),
        "liger_fused_linear_cross_entropy": when("loss", "liger"),
        **dict.fromkeys(LIGER_PARTS, liger_part),
        "cut_cross_entropy": when("loss", "cut"),
        "unfrozen_parameters": refused("parts that train"),
        "qat": fake_quantisers,
        "lisa_n_layers": lambda said, key: {"method": "lisa", "active_layers": said.whole(key)},
    },
    "llama-factory": {
        "finetuning_type": llama_factory_keys.method,
        "bf16": llama_factory_keys.under_autocast("bf16"),
        "fp16": llama_factory_keys.under_autocast("fp16"),
        "pure_bf16": llama_factory_keys.pure,
        "per_device_train_batch_size": number("batch"),
        "cutoff_len": number("seq_len"),
        **{key: reader for key, reader in _BATCH.items() if key != "gradient_checkpointing"},
        "use_reentrant_gc": llama_factory_keys.reentrant,
        "use_unsloth_gc": when("checkpointing", "unsloth"),
        "disable_gradient_checkpointing": when("checkpointing", "none"),
        "optim": optimizer,
        "stage": llama_factory_keys.stage,
        "quantization_bit": llama_factory_keys.base,
        "use_dora": when("method", "dora"),
        "lora_rank": number("rank"),
        "lora_dropout": rate("adapter_dropout"),
        "lora_target": targets,
        "additional_target": modules("modules_to_save"),
        "flash_attn": attention,
        "neat_packing": packed,
        "enable_liger_kernel": liger,
        "use_unsloth": unsloth,
        "use_galore": factory_projection("galore"),
        "use_apollo": factory_projection("apollo"),
        "use_badam": refused("layers that take turns"),
        "use_adam_mini": when("optimizer", "adam-mini"),
        "use_muon": refused("a Muon of its own"),
        "freeze_trainable_layers": refused("parts that train"),
        "freeze_vision_tower": lambda said, key: {"freeze_vision": said.switch(key)},
        "freeze_language_model": refused("towers that train alone"),
        "mixture_of_depths": refused("layers that pass tokens by"),
        "shift_attn": refused("attention in shifted groups"),
        "upcast_layernorm": refused("norms in fp32"),
        "upcast_lmhead_output": refused("logits cast by a hook"),
        **dict.fromkeys(("use_dft_loss", "use_asft_loss", "use_eaft_loss"), refused("a loss of its own")),
        "use_kt": refused("KTransformers' experts in host memory"),
        **dict.fromkeys(FACTORY_SHARDED, refused(SHARDED)),
    },
    "torchtune": {
        "batch_size": number("batch"),
        "gradient_accumulation_steps": number("accumulation"),
        "tokenizer.max_seq_len": number("seq_len"),
        "dtype": plain_dtype,
        "enable_activation_checkpointing": lambda said, key: {
            "checkpointing": "non-reentrant" if said.switch(key) else "none"
        },
        "ac_mode": refused("it is of recipes for several GPUs"),
        "enable_activation_offloading": when("activation_offload", "torchtune"),
        "optimizer._component_": optimizer,
        "optimizer.fused": when("implementation", "fused"),
        "optimizer_in_bwd": when("optimizer_in_backward", True),
        "compile": when("compile", True),
        "model.lora_rank": lambda said, key: {"method": "lora", "rank": said.whole(key)},
        "model.lora_dropout": rate("adapter_dropout"),
        "model.lora_attn_modules": torchtune_keys.adapters,
        "model.use_dora": when("method", "dora"),
        torchtune_keys.COMPONENT: torchtune_keys.base,
        "model.quantize_base": torchtune_keys.quantised,
        "clip_grad_norm": clipping,
        "quantizer._component_": refused("torchtune's fake quantisers"),
        "teacher_model._component_": refused("torchtune's distillation"),
        **dict.fromkeys(
            (
                "custom_sharded_layers",
                "data_parallel_replicate_dim",
                "data_parallel_shard_dim",
                "fsdp_cpu_offload",
                "tensor_parallel_dim",
                "context_parallel_dim",
            ),
            refused(SHARDED),
        ),
        "loss._component_": lambda said, key: {
            "loss": said.one_of(
                key,
                {
                    "torchtune.modules.loss.CEWithChunkedOutputLoss": "torchtune",
                    "torchtune.modules.loss.LinearCrossEntropyLoss": "torchtune",
                    "torch.nn.CrossEntropyLoss": "hf-4.45",
                },
            )
        },
    },
    "deepspeed": {},
    "accelerate": {
        "mixed_precision": lambda said, key: said.one_of(
            key, {"no": {}, "bf16": mixed("bf16", "fp32"), "fp16": mixed("fp16", "fp32")}
        ),
        "num_processes": refused(SHARDED),
        "num_machines": refused(SHARDED),
        "distributed_type": lambda said, key: {} if said.values[key] == "DEEPSPEED" else refused(SHARDED)(said, key),
        "deepspeed_config": elsewhere,
        "fsdp_config": refused(SHARDED),
        "dynamo_config": refused("compiled code"),
    },
}
MODEL_KEYS = {
    "axolotl": "base_model",
    "llama-factory": "model_name_or_path",
    "trl": "model_name_or_path",
    "ppo": "sft_model_path",
}
