"""Keys of config files that move no memory of a step, by framework; keys whose effect is told, not counted."""

from __future__ import annotations

from oomph.runtimes import ppo_keys

# What moves no memory of the job.
HARMLESS = frozenset({
    "adam_beta1", "adam_beta2", "adam_epsilon", "chat_template", "data_seed", "dataloader_num_workers",
    "dataset_config", "dataset_name", "dataset_prepared_path", "datasets", "ddp_timeout", "do_eval", "do_train",
    "epochs", "eval_steps", "eval_strategy", "evaluation_strategy", "gradient_checkpointing_kwargs",
    "group_by_length", "hub_model_id", "learning_rate", "log_every_n_steps", "log_level", "logging_dir",
    "logging_steps", "logging_strategy", "lora_alpha", "lora_task_type", "lr_scheduler",
    "lr_scheduler_type", "max_steps",
    "model_name_or_path", "model_type", "num_epochs", "num_train_epochs", "output_dir", "overwrite_output_dir",
    "per_device_eval_batch_size", "push_to_hub", "remove_unused_columns", "report_to", "resume_from_checkpoint",
    "run_name", "save_steps", "save_strategy", "save_total_limit", "seed", "special_tokens", "strict", "tf32",
    "tokenizer_type", "train_on_inputs", "trust_remote_code", "use_rslora", "val_set_size", "wandb_entity",
    "wandb_log_model", "wandb_name", "wandb_project", "wandb_watch", "warmup_ratio", "warmup_steps", "weight_decay",
})  # fmt: skip
HARMLESS_OF: dict[str, frozenset[str]] = {
    "axolotl": frozenset({
        "adam_eps", "auto_resume_from_checkpoints", "base_model", "base_model_config",
        "dataset_exact_deduplication", "dataset_processes", "ddp_find_unused_parameters", "early_stopping_patience",
        "eot_tokens", "eval_batch_size", "eval_sample_packing", "evals_per_epoch", "hf_use_auth_token",
        "is_falcon_derived_model", "is_llama_derived_model", "is_mistral_derived_model", "liger_layer_norm",
        "lisa_layers_attribute", "lisa_step_interval", "local_rank", "logging_dir", "lora_fan_in_fan_out",
        "lora_model_dir", "lora_on_cpu", "loss_watchdog_patience", "loss_watchdog_threshold", "peft_use_rslora",
        "plugins", "processor_type", "qgalore_cos_threshold", "qgalore_gamma_proj", "qgalore_proj_bits",
        "qgalore_proj_group_size", "qgalore_proj_quant", "qgalore_proj_type", "qgalore_queue_size", "qgalore_rank",
        "qgalore_scale", "qgalore_update_proj_gap", "revision_of_model", "sample_packing_bin_size",
        "sample_packing_eff_est", "sample_packing_group_size", "sample_packing_mp_start_method",
        "sample_packing_sequentially", "saves_per_epoch", "shuffle_merged_datasets", "skip_prepare_dataset",
        "strict", "swanlab_description", "swanlab_experiment_name", "swanlab_mode", "swanlab_project",
        "tokenizer_config", "tokenizer_legacy", "tokenizer_use_fast", "tokenizer_use_mistral_common", "tokens",
        "use_swanlab", "wandb_run_id",
    }),
    "llama-factory": frozenset({
        "apollo_layerwise", "apollo_proj", "apollo_proj_type", "apollo_rank", "apollo_scale", "apollo_scale_type",
        "apollo_target", "apollo_update_interval", "dataset", "dataset_dir", "double_quantization", "eval_dataset",
        "freeze_multi_modal_projector", "galore_layerwise", "galore_proj_type", "galore_rank", "galore_scale",
        "galore_target", "galore_update_interval", "loraplus_lr_ratio", "max_samples", "overwrite_cache",
        "pissa_convert", "pissa_init", "pissa_iter", "plot_loss", "preprocessing_num_workers",
        "quantization_method", "quantization_type", "ray_num_workers", "save_only_model", "template",
        "tokenized_path", "val_size",
    }),
    "deepspeed": frozenset({
        "activation_checkpointing", "amp", "bf16", "communication_data_type", "comms_logger", "csv_monitor",
        "data_types", "dump_state", "flops_profiler", "fp16", "gradient_accumulation_steps", "gradient_clipping",
        "gradient_predivide_factor", "memory_breakdown", "optimizer", "prescale_gradients", "scheduler",
        "steps_per_print", "tensorboard", "torch_autocast", "train_batch_size", "train_micro_batch_size_per_gpu",
        "wall_clock_breakdown", "wandb", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    }),
    "trl": frozenset({
        "assistant_only_loss", "beta", "completion_only_loss", "cpo_alpha", "dataset_kwargs", "dataset_mixer",
        "dataset_mixture", "dataset_num_proc", "dataset_prompt_column", "dataset_splits", "dataset_test_split",
        "dataset_text_field", "dataset_train_split", "eos_token", "eval_packing", "hub_always_push",
        "hub_model_revision", "hub_private_repo", "hub_strategy", "lmbda", "log_completions", "logging_first_step",
        "lr_scheduler_kwargs", "max_completion_length", "max_new_tokens", "max_prompt_length", "model_revision",
        "reward_weights", "seq_kd", "simpo_gamma", "system_prompt", "temperature", "top_k", "top_p", "use_vllm",
        "vllm_gpu_memory_utilization", "vllm_mode",
    }),
    "ppo": ppo_keys.LEFT_ALONE - {"bf16"},
    "torchtune": frozenset({
        "batch_size_val", "collate_fn", "device", "log_level", "log_peak_memory_stats", "low_cpu_ram",
        "max_steps_per_epoch", "model.apply_lora_to_mlp", "model.apply_lora_to_output", "model.lora_alpha",
        "optimizer.lr", "optimizer.weight_decay", "run_val_every_n_steps", "save_adapter_weights_only", "shuffle",
    }),
    "accelerate": frozenset({
        "compute_environment", "debug", "downcast_bf16", "enable_cpu_affinity", "gpu_ids", "machine_rank",
        "main_training_function", "rdzv_backend", "same_network", "tpu_env", "tpu_use_cluster", "tpu_use_sudo",
        "use_cpu",
    }),
}  # fmt: skip
# torchtune's sections of which no key moves memory of a step: packed rows take flex attention, whose masks are small.
HARMLESS_SECTIONS: dict[str, tuple[str, ...]] = {
    "torchtune": (
        "checkpointer.",
        "dataset.",
        "dataset_val.",
        "lr_scheduler.",
        "metric_logger.",
        "profiler.",
        "tokenizer.",
    )
}
# Keys that move memory in a way that is not counted, with what they do: an answer is given, and says so.
_OF_LORA = "axolotl's own LoRA kernels keep less for the backward pass than what is played"
NOTES: dict[str, dict[str, str]] = {
    "axolotl": {
        **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), _OF_LORA),
        "flash_attn_cross_entropy": "flash-attn's cross entropy is not played; transformers' own is",
        "trl": "what its section says of generation is not read, and vLLM on the same GPU is not counted",
        "use_kernels": "kernels from the hub are not played; torch's own are",
    },
    "trl": {"use_vllm": "vLLM is not counted; on the same GPU it takes vllm_gpu_memory_utilization of it"},
}
