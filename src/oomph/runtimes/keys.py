"""What keys of config files mean for a job, by framework; what moves memory and is not modelled is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.errors import ConfigError, UnsupportedError
from oomph.methods.targets import is_pattern
from oomph.runtimes import (
    axolotl_keys,
    base_keys,
    dtype_keys,
    litgpt_keys,
    llama_factory_keys,
    packing_keys,
    ppo_keys,
    swift_keys,
    torchtune_keys,
    trl_keys,
)
from oomph.runtimes.optimizer_keys import (
    axolotl_optimizer,
    factory_projection,
    optimizer,
    optimizer_arguments,
    projected_modules,
)
from oomph.runtimes.packing_keys import attention
from oomph.runtimes.said import Reader, Said, shown
from oomph.runtimes.trainer import mixed


def number(field: str) -> Reader:
    """Return the reader of a whole number."""
    return lambda said, key: {field: said.whole(key)}


def rate(field: str) -> Reader:
    """Return the reader of a rate of dropout."""
    return lambda said, key: {field: said.rate(key)}


def when(field: str, value: Any) -> Reader:
    """Return the reader of a switch that sets a field if it is on."""
    return lambda said, key: {field: value} if said.switch(key) else {}


def switch(field: str) -> Reader:
    """Return the reader of a switch that is a field."""
    return lambda said, key: {field: said.switch(key)}


def refused(why: str) -> Reader:
    """Return the reader of what is not modelled: anything but false, none or 1 is refused."""

    def read(said: Said, key: str) -> dict[str, Any]:
        value = said.values[key]
        if value is True or value not in (False, None, 1, "", "no", "NO", "none", 0, [], {}):
            raise UnsupportedError(f"{said.where}: {key} is not modelled: {why}.", "Leave it out, or trace the job.")
        return {}

    return read


def left(said: Said, key: str) -> dict[str, Any]:
    """Read what changes nothing in one program, and something in others."""
    return {}


IN_HOST_MEMORY = ("offload", "offload_disk", "unsloth")  # axolotl's ways with gradient_checkpointing


def checkpointing(said: Said, key: str) -> dict[str, Any]:
    """Read `gradient_checkpointing` or `activation_checkpointing`, its newer name, and the way it is asked for."""
    if isinstance(said.values[key], str) and said.values[key] in IN_HOST_MEMORY:
        why = f"{said.where}: {key} {said.values[key]} is not modelled: it keeps what layers begin with in host memory."
        raise UnsupportedError(why, "Say true: the estimate is then higher by those tensors.")
    if not said.switch(key):
        return {"checkpointing": "none"}
    options = said.values.get(f"{key}_kwargs") or {}
    reentrant = options.get("use_reentrant", False) if isinstance(options, Mapping) else False
    return {"checkpointing": "reentrant" if reentrant else "non-reentrant", "use_cache": False}


def clipping(said: Said, key: str) -> dict[str, Any]:
    """Read the largest norm: 0 is no clipping."""
    return {"clip_gradients": bool(said.values[key])}


def _names(said: Said, key: str) -> list[str]:
    value = said.values[key]
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise ConfigError(f"{said.where}: {key} is no list of names.", "Give names of modules.")
    return [one.strip() for one in names]


def targets(said: Said, key: str) -> dict[str, Any]:
    """Read which modules get adapters: a list of names, or one text, which may be a regular expression."""
    if isinstance(said.values[key], str) and is_pattern(said.values[key]):
        return {"targets": said.values[key]}
    names = _names(said, key)
    return {"targets": "all-linear" if names in (["all"], ["all-linear"]) else ",".join(names)}


def modules(said: Said, key: str) -> dict[str, Any]:
    """Read of which modules a copy trains beside adapters."""
    return {"modules_to_save": ",".join(_names(said, key))}


def liger(said: Said, key: str) -> dict[str, Any]:
    """Read the switch of all that Liger has for a model: its loss and its kernels."""
    return {"loss": "liger", "kernels": "liger"} if said.switch(key) else {}


def unsloth(said: Said, key: str) -> dict[str, Any]:
    """Read the switch of Unsloth's model and adapters, which come with its checkpointing and its loss."""
    return dict.fromkeys(("kernels", "checkpointing", "loss"), "unsloth") if said.switch(key) else {}


def elsewhere(said: Said, key: str) -> dict[str, Any]:
    """Leave a config of DeepSpeed's to deepspeed.py; the name of a file is one that is not there."""
    value = said.values[key]
    if isinstance(value, Mapping):
        value = value.get("deepspeed_config_file") or None
    if value:
        fix = "Put what it says in its place, or the file beside the config."
        raise ConfigError(f"{said.where}: {key} names {shown(value)}, which is not there.", fix)
    return {}


FACTORY_SHARDED = (
    "context_parallel_size", "expert_model_parallel_size", "hyper_parallel_cp_size", "pipeline_model_parallel_size",
    "sequence_parallel", "tensor_model_parallel_size",
)  # fmt: skip
SHARDED = "oomph plays one GPU"
SMOOTHED = "its loss takes log-probabilities of all logits once more"
CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")
_BATCH: dict[str, Reader] = {
    "gradient_accumulation_steps": number("accumulation"),
    "max_grad_norm": clipping,
    **dict.fromkeys(CHECKPOINTING, checkpointing),
    "deepspeed": elsewhere,
    "fsdp": refused(SHARDED),
    "fsdp_config": refused(SHARDED),
}
_TRAINER: dict[str, Reader] = {
    **dict.fromkeys(dtype_keys.KEYS, dtype_keys.plain),
    "bf16": dtype_keys.low("bf16"),
    "fp16": dtype_keys.low("fp16"),
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
    "lora_modules_to_save": modules,
    "load_in_8bit": base_keys.eight_bit,
    "load_in_4bit": base_keys.four_bit,
    "use_dora": base_keys.dora,
    "use_cache": switch("use_cache"),
    "label_smoothing_factor": refused(SMOOTHED),
}
_BASE_OF_TRL: dict[str, Reader] = {
    "load_in_8bit": base_keys.eight_bit_of_trl,
    "load_in_4bit": base_keys.four_bit_of_trl,
    "use_dora": when("method", "dora"),
    "use_cache": left,  # its trainers switch it off whatever is said
}
READERS: dict[str, dict[str, Reader]] = {
    "trainer": _TRAINER,
    "trl": {
        **_TRAINER,
        **_BASE_OF_TRL,
        **dict.fromkeys((*dtype_keys.KEYS, "bf16", "fp16"), dtype_keys.of_trl),
        "max_length": number("seq_len"),
        "max_seq_length": number("seq_len"),
        **dict.fromkeys(("packing", "packing_strategy", "padding_free"), packing_keys.of_trl),
        **dict.fromkeys(("num_generations", "reward_funcs"), trl_keys.completions),
        "activation_offloading": when("activation_offload", "trl"),
        "loss_type": trl_keys.loss_type,
        "teacher_model_name_or_path": trl_keys.teacher,
        "precompute_ref_log_probs": when("reference", "precomputed"),
        "disable_dropout": lambda said, key: {"dropout": not said.switch(key)},
        "use_vllm": trl_keys.beside_vllm,
        "cast_lm_head_to_fp32": refused("a head in fp32"),
        "ld_alpha": refused("answers cut to one length"),
        "quantization_config": refused("a config of bitsandbytes: load_in_4bit and load_in_8bit are read"),
        "sync_ref_model": refused("a reference that follows the policy"),
        "use_weighting": refused("weighted pairs"),
    },
    "ppo": {
        "reward_model_path": ppo_keys.judged,
        **dict.fromkeys(dtype_keys.KEYS, dtype_keys.of_loaded),
        "bf16": ppo_keys.narrow,
        "fp16": refused("fp16 and its scaler"),
        **{
            key: reader
            for key, reader in _TRAINER.items()
            if key not in (*ppo_keys.LEFT_ALONE, "fp16", *dtype_keys.KEYS)
        },
        **_BASE_OF_TRL,
        "num_mini_batches": number("mini_batches"),
        "local_rollout_forward_batch_size": number("rollout_batch"),
    },
    "axolotl": {
        "bf16": dtype_keys.low("bf16", "bf16"),
        "fp16": dtype_keys.low("fp16", "fp16"),
        "micro_batch_size": number("batch"),
        "sequence_len": number("seq_len"),
        **_BATCH,
        "optimizer": axolotl_optimizer,
        "optim_target_modules": projected_modules,
        "rl": lambda said, key: said.one_of(key, axolotl_keys.RL),
        "reward_model": when("objective", "reward"),
        "precompute_ref_log_probs": when("reference", "precomputed"),
        "activation_offloading": refused("axolotl's way with activations in host memory"),
        **dict.fromkeys(axolotl_keys.KERNELS, axolotl_keys.kernels),
        "adapter": base_keys.adapter_of_axolotl,
        "lora_r": number("rank"),
        "lora_dropout": rate("adapter_dropout"),
        "lora_target_modules": targets,
        "lora_target_linear": when("targets", "all-linear"),
        "lora_target_parameters": refused("adapters on stacked experts"),
        "lora_modules_to_save": modules,
        "load_in_8bit": base_keys.eight_bit_of_axolotl,
        "load_in_4bit": base_keys.four_bit_of_axolotl,
        "peft_use_dora": when("method", "dora"),
        "peft_trainable_token_indices": refused("rows of a table that train"),
        "quantize_moe_experts": when("quantised_experts", True),
        "gptq": refused("its way with GPTQ's bases"),
        **dict.fromkeys(packing_keys.AXOLOTL, packing_keys.of_axolotl),
        "s2_attention": refused("oomph does not know that kernel"),
        "experts_implementation": lambda said, key: {"experts": said.one_of(key, axolotl_keys.EXPERTS)},
        "torch_compile": axolotl_keys.compiled,
        **dict.fromkeys(axolotl_keys.SHARDED, refused(SHARDED)),
        "plugins": axolotl_keys.plugins,
        "liger_fused_linear_cross_entropy": when("loss", "liger"),
        "cut_cross_entropy": when("loss", "cut"),
        "batch_size": axolotl_keys.whole_batch,
        **dict.fromkeys(("chunked_cross_entropy", "use_eaft"), refused("a loss of its own")),
        "process_reward_model": refused("labels of steps"),
        **dict.fromkeys(("use_scattermoe", "use_sonicmoe"), refused("kernels of experts")),
        "llama4_linearized_experts": refused("experts as linear maps of their own"),
        "relora": refused("adapters that are merged and begun anew"),
        "tiled_mlp": refused("an MLP in tiles"),
        "layer_offloading": refused("layers that wait in host memory"),
        "fp32_norms": refused("norms in fp32"),
        "fp8": refused("products in fp8"),
        "unfrozen_parameters": refused("parts that train"),
        "qat": axolotl_keys.fake_quantisers,
        "lisa_n_layers": lambda said, key: {"method": "lisa", "active_layers": said.whole(key)},
    },
    "llama-factory": {
        **{key: refused(why) for key, why in llama_factory_keys.REFUSED.items()},
        "finetuning_type": llama_factory_keys.method,
        "bf16": llama_factory_keys.under_autocast("bf16"),
        "fp16": llama_factory_keys.under_autocast("fp16"),
        "pure_bf16": llama_factory_keys.pure,
        "per_device_train_batch_size": number("batch"),
        "cutoff_len": number("seq_len"),
        **{key: reader for key, reader in _BATCH.items() if key not in CHECKPOINTING},
        **dict.fromkeys(llama_factory_keys.CHECKPOINTING, llama_factory_keys.checkpointing),
        "torch_compile": when("compile", True),
        "optim": optimizer,
        "stage": llama_factory_keys.stage,
        "quantization_bit": llama_factory_keys.bits,
        "use_dora": when("method", "dora"),
        "lora_rank": number("rank"),
        "lora_dropout": rate("adapter_dropout"),
        "lora_target": targets,
        "additional_target": modules,
        "flash_attn": attention,
        **dict.fromkeys(("packing", "neat_packing"), packing_keys.of_factory),
        "enable_liger_kernel": llama_factory_keys.liger,
        "use_unsloth": unsloth,
        "use_galore": factory_projection("galore"),
        "use_apollo": factory_projection("apollo"),
        "use_badam": llama_factory_keys.badam,
        "use_adam_mini": when("optimizer", "adam-mini"),
        "use_muon": when("optimizer", "muon-llama-factory"),
        "freeze_vision_tower": switch("freeze_vision"),
        "freeze_multi_modal_projector": llama_factory_keys.projector,
        "upcast_layernorm": llama_factory_keys.upcast_norms,
        "upcast_lmhead_output": llama_factory_keys.upcast_logits,
        **dict.fromkeys(llama_factory_keys.LOSSES, llama_factory_keys.own_loss),
        **dict.fromkeys(llama_factory_keys.VOCABULARY, llama_factory_keys.vocabulary),
        **dict.fromkeys(FACTORY_SHARDED, refused(SHARDED)),
    },
    "swift": {
        **{key: refused(why) for key, why in swift_keys.REFUSED.items()},
        "rlhf_type": swift_keys.preferences,
        **dict.fromkeys(swift_keys.TUNER, swift_keys.tuner),
        **dict.fromkeys(("torch_dtype", "bf16", "fp16"), swift_keys.dtypes),
        "lora_dtype": swift_keys.adapter_dtype,
        "per_device_train_batch_size": number("batch"),
        "gradient_accumulation_steps": number("accumulation"),
        "max_grad_norm": clipping,
        "max_length": number("seq_len"),
        "truncation_strategy": lambda said, key: {"long_samples": said.one_of(key, swift_keys.LONG)},
        "attn_impl": lambda said, key: {"attention": said.one_of(key, swift_keys.ATTENTION)},
        "packing": when("packing", True),
        "padding_free": when("padding_free", True),
        **dict.fromkeys(("gradient_checkpointing", "gradient_checkpointing_kwargs"), swift_keys.checkpointing),
        "quant_method": swift_keys.base,
        "lora_rank": number("rank"),
        "lora_dropout": rate("adapter_dropout"),
        "lora_bias": refused("biases that train"),
        "target_modules": swift_keys.targets,
        "modules_to_save": modules,
        "use_dora": when("method", "dora"),
        "adalora_init_r": number("rank"),
        "boft_block_size": number("block_size"),
        "optim": optimizer,
        "optimizer": swift_keys.plugin,
        "lisa_activated_layers": swift_keys.lisa,
        "use_liger_kernel": liger,
        **dict.fromkeys(("freeze_vit", "freeze_aligner"), swift_keys.towers),
        "tuner_backend": swift_keys.backend,
        "task_type": swift_keys.task,
        "deepspeed": swift_keys.zero,
        "torch_compile": when("compile", True),
        "label_smoothing_factor": refused(SMOOTHED),
    },
    "torchtune": {
        "batch_size": number("batch"),
        "gradient_accumulation_steps": number("accumulation"),
        "tokenizer.max_seq_len": number("seq_len"),
        "dataset.packed": packing_keys.of_torchtune,
        "dtype": dtype_keys.plain,
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
    "litgpt": {
        "precision": lambda said, key: said.one_of(key, litgpt_keys.PRECISIONS),
        "quantize": lambda said, key: said.one_of(key, litgpt_keys.QUANTISED),
        **dict.fromkeys(litgpt_keys.ADAPTERS, litgpt_keys.adapters),
        "lora_dropout": rate("adapter_dropout"),
        "train.micro_batch_size": number("batch"),
        "train.global_batch_size": litgpt_keys.accumulation,
        "train.max_seq_length": number("seq_len"),
        **dict.fromkeys(litgpt_keys.NOT_TAKEN, litgpt_keys.not_taken),
        **dict.fromkeys(("optimizer", "optimizer.class_path"), litgpt_keys.optimizer_of),
        **dict.fromkeys(("devices", "num_nodes"), refused(SHARDED)),
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
    "swift": "model",
}
