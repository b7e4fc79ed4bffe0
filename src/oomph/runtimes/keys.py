"""What keys of config files mean for a job, by framework; what moves memory and is not modelled is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.errors import ConfigError, UnsupportedError
from oomph.methods.qat import GROUP
from oomph.runtimes import base_keys, factory_keys, packing_keys, ppo_keys
from oomph.runtimes.optimizer_keys import factory_projection, optimizer, optimizer_arguments, projected_modules
from oomph.runtimes.packing_keys import attention
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


def checkpointing(said: Said, key: str) -> dict[str, Any]:
    """Read `gradient_checkpointing`, and the way it is asked for."""
    if not said.switch(key):
        return {"checkpointing": "none"}
    options = said.values.get(f"{key}_kwargs") or {}
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


def modules(said: Said, key: str) -> dict[str, Any]:
    """Read of which modules a copy trains beside adapters."""
    value = said.values[key]
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise ConfigError(f"{said.where}: {key} is no list of names.", "Give names of modules: lm_head, embed_tokens.")
    return {"modules_to_save": ",".join(one.strip() for one in names)}


def when(field: str, value: Any) -> Reader:
    """Return the reader of a switch that sets a field if it is on."""
    return lambda said, key: {field: value} if said.switch(key) else {}


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


def rate(field: str) -> Reader:
    """Return the reader of a rate of dropout."""
    return lambda said, key: {field: said.rate(key)}


LOSS_TYPES: dict[str, dict[str, Any]] = {  # of TRL's SFTConfig and DPOConfig
    "nll": {},
    "chunked_nll": {"loss": "chunked-nll"},
    "sigmoid": {"objective": "dpo"},
    "ipo": {"objective": "ipo"},
    "kto": {"objective": "kto"},
    "dapo": {"objective": "grpo"},
}


def loss_type(said: Said, key: str) -> dict[str, Any]:
    """Read TRL's `loss_type`, of any of its configs; SimPO is CPOConfig's with nothing added."""
    if said.values[key] == "simpo" and said.values.get("cpo_alpha") in (0, 0.0):
        return {"objective": "simpo"}
    value = said.values[key]
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    found: dict[str, Any] = Said(said.where, {key: one}).one_of(key, LOSS_TYPES)
    has_kl = found.get("objective") == "grpo" and said.values.get("beta") not in (None, 0, 0.0)
    return {"objective": "grpo-kl"} if has_kl else found


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


def dtype_of_trl(said: Said, key: str) -> dict[str, Any]:
    """Read the dtype that weights are loaded in, "auto" the checkpoint's, which most have in bf16; autocast to bf16 is
    on unless fp16 is, or it is switched off.
    """
    if said.values.get("fp16"):
        return {}
    weights: str = said.one_of(key, {**WORDS_FOR_DTYPE, "auto": "bf16"})
    return {"precision": weights} if said.values.get("bf16") is False else mixed("bf16", weights)


def completed(said: Said, key: str) -> dict[str, Any]:
    """Read how long completions are, behind prompts whose length older configs say."""
    if said.values.get("max_prompt_length") is None:
        return {}
    prompt = said.whole("max_prompt_length")
    return {"prompt_len": prompt, "seq_len": prompt + said.whole(key)}


def beside_vllm(said: Said, key: str) -> dict[str, Any]:
    """Read whether vLLM generates: on another GPU that takes no memory here, on the same one it does."""
    if said.switch(key) and said.values.get("vllm_mode") != "server":
        why = "vLLM takes its share of the same GPU (vllm_mode: colocate)"
        raise UnsupportedError(f"{said.where}: {key} is not modelled: {why}.", "Leave it out, or ask `oomph serve`.")
    return {}


PLUGINS: dict[str, dict[str, Any]] = {
    "axolotl.integrations.liger.LigerPlugin": {},  # its switches are keys of their own
    "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin": {"loss": "cut"},
    "axolotl.integrations.spectrum.SpectrumPlugin": {},
}


def plugins(said: Said, key: str) -> dict[str, Any]:
    """Read axolotl's plugins: that of Apple's loss is on unless `cut_cross_entropy` is false."""
    value = said.values[key]
    if not isinstance(value, list):
        raise ConfigError(f"{said.where}: {key} is {shown(value)}.", "Give a list of classes.")
    found: dict[str, Any] = {}
    for name in value:
        found |= Said(said.where, {key: name}).one_of(key, PLUGINS)
    return {} if said.values.get("cut_cross_entropy") is False else found


RL: dict[str, dict[str, Any]] = {
    name: {"objective": name} for name in ("dpo", "ipo", "kto", "grpo")
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


SHARDED = "oomph plays one GPU"
_BATCH: dict[str, Reader] = {
    "gradient_accumulation_steps": number("accumulation"),
    "max_grad_norm": clipping,
    "gradient_checkpointing": checkpointing,
    "activation_checkpointing": checkpointing,
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
    "lora_modules_to_save": modules,
    "load_in_8bit": base_keys.eight_bit,
    "load_in_4bit": base_keys.four_bit,
    "use_dora": base_keys.prepared_dora,
    "use_cache": lambda said, key: {"use_cache": said.switch(key)},
    "label_smoothing_factor": refused("its loss takes log-probabilities of all logits once more"),
}
READERS: dict[str, dict[str, Reader]] = {
    "trainer": _TRAINER,
    "trl": {
        **_TRAINER,
        "max_length": number("seq_len"),
        "max_seq_length": number("seq_len"),
        **dict.fromkeys(("packing", "packing_strategy", "padding_free"), packing_keys.of_trl),
        "activation_offloading": when("activation_offload", "trl"),
        "loss_type": loss_type,
        "teacher_model_name_or_path": teacher,
        "precompute_ref_log_probs": when("reference", "precomputed"),
        "disable_dropout": lambda said, key: {"dropout": not said.switch(key)},
        **dict.fromkeys(("dtype", "torch_dtype"), dtype_of_trl),
        "load_in_8bit": base_keys.eight_bit_of_trl,
        "load_in_4bit": base_keys.four_bit_of_trl,
        "use_dora": base_keys.dora,
        "use_cache": lambda said, key: {},  # its trainers switch it off whatever is said
        "max_completion_length": completed,
        "use_vllm": beside_vllm,
        "cast_lm_head_to_fp32": refused("a head in fp32"),
        "ld_alpha": refused("answers cut to one length"),
        "quantization_config": refused("a config of bitsandbytes: load_in_4bit and load_in_8bit are read"),
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
        "adapter": base_keys.adapter_of_axolotl,
        "lora_modules_to_save": modules,
        "torch_compile": lambda said, key: {"compile": said.values[key] == "auto" or said.switch(key)},
        "plugins": plugins,
        "lora_r": number("rank"),
        "lora_dropout": rate("adapter_dropout"),
        "lora_target_modules": targets,
        "lora_target_linear": when("targets", "all-linear"),
        "load_in_8bit": base_keys.eight_bit,
        "peft_use_dora": base_keys.prepared_dora,
        "quantize_moe_experts": when("quantised_experts", True),
        **dict.fromkeys(packing_keys.AXOLOTL, packing_keys.of_axolotl),
        "liger_fused_linear_cross_entropy": when("loss", "liger"),
        **dict.fromkeys(LIGER_PARTS, liger_part),
        "cut_cross_entropy": when("loss", "cut"),
        "unfrozen_parameters": refused("parts that train"),
        **dict.fromkeys(
            ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel"),
            refused("kernels that compute adapters with their maps"),
        ),
        "chunked_cross_entropy": refused("a loss of its own"),
        "layer_offloading": refused("layers in the machine's memory"),
        "tiled_mlp": refused("an MLP piece by piece"),
        "fp32_norms": refused("norms in fp32"),
        "relora": refused("adapters that are merged on the way"),
        "fp8": refused("products in fp8"),
        "peft_trainable_token_indices": refused("rows of a table that train"),
        **dict.fromkeys(
            ("sequence_parallel_degree", "context_parallel_size", "tensor_parallel_size", "dp_shard_size"),
            refused(SHARDED),
        ),
        "qat": fake_quantisers,
        "lisa_n_layers": lambda said, key: {"method": "lisa", "active_layers": said.whole(key)},
    },
    "llama-factory": {
        "bf16": factory_keys.low("bf16"),
        "fp16": factory_keys.low("fp16"),
        "pure_bf16": factory_keys.pure,
        "per_device_train_batch_size": number("batch"),
        "cutoff_len": number("seq_len"),
        **_BATCH,
        **dict.fromkeys(factory_keys.CHECKPOINTING, factory_keys.checkpointing),
        "torch_compile": when("compile", True),
        "label_smoothing_factor": refused("its loss takes log-probabilities of all logits once more"),
        "optim": optimizer,
        "stage": lambda said, key: said.one_of(key, {"sft": {}, "pt": {}}),
        "finetuning_type": lambda said, key: {"method": said.one_of(key, {"lora": "lora", "full": "full"})},
        "quantization_bit": base_keys.bits_of_factory,
        "quantization_method": lambda said, key: said.one_of(key, base_keys.FACTORY_METHODS),
        "use_dora": base_keys.dora,
        "additional_target": modules,
        "lora_rank": number("rank"),
        "lora_dropout": rate("adapter_dropout"),
        "lora_target": targets,
        "flash_attn": attention,
        **dict.fromkeys(("packing", "neat_packing"), packing_keys.of_factory),
        "enable_liger_kernel": liger,
        "use_unsloth": unsloth,
        "use_galore": factory_projection("galore"),
        "use_apollo": factory_projection("apollo"),
        "use_badam": refused("layers that take turns"),
        "use_adam_mini": when("optimizer", "adam-mini"),
        "use_muon": refused("a Muon of its own"),
        "freeze_trainable_layers": refused("parts that train"),
        "freeze_language_model": refused("a tower that trains alone"),
        "upcast_layernorm": refused("norms in fp32"),
        "upcast_lmhead_output": refused("logits in fp32"),
        "shift_attn": refused("attention in groups"),
        "use_llama_pro": refused("blocks that are added"),
        "mixture_of_depths": refused("tokens that pass layers by"),
        "fp8": refused("products in fp8"),
        **dict.fromkeys(("use_dft_loss", "use_asft_loss", "use_eaft_loss"), refused("a loss of its own")),
        "freeze_vision_tower": lambda said, key: {"freeze_vision": said.switch(key)},
    },
    "torchtune": {
        "batch_size": number("batch"),
        "gradient_accumulation_steps": number("accumulation"),
        "tokenizer.max_seq_len": number("seq_len"),
        "dataset.packed": packing_keys.of_torchtune,
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
        "model.lora_attn_modules": targets,
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
