"""Keys of config files that move no memory of a job, by framework."""

from __future__ import annotations

from oomph.runtimes import ppo_keys

# Of every framework. NEFTune's noise lies beside embedded tokens for a moment, long before any peak.
HARMLESS = frozenset({
    "activation_checkpointing_kwargs", "dataloader_drop_last", "dataloader_persistent_workers",
    "dataloader_pin_memory", "dataloader_prefetch_factor", "disable_tqdm", "eval_accumulation_steps", "eval_delay",
    "eval_on_start", "full_determinism", "greater_is_better", "hub_private_repo", "hub_strategy", "hub_token",
    "include_num_input_tokens_seen", "label_names", "load_best_model_at_end", "log_level", "logging_first_step",
    "lr_scheduler_kwargs", "metric_for_best_model", "neftune_noise_alpha", "save_only_model", "save_safetensors",
    "adam_beta1", "adam_beta2", "adam_epsilon", "chat_template", "data_seed", "dataloader_num_workers",
    "dataset_config", "dataset_name", "dataset_prepared_path", "datasets", "ddp_timeout", "do_eval", "do_train",
    "epochs", "eval_steps", "eval_strategy", "evaluation_strategy", "gradient_checkpointing_kwargs",
    "group_by_length", "hub_model_id", "learning_rate", "log_every_n_steps", "logging_dir", "logging_steps",
    "logging_strategy", "lora_alpha", "lora_task_type", "lr_scheduler", "lr_scheduler_type", "max_steps",
    "model_name_or_path", "model_type", "num_epochs", "num_train_epochs", "output_dir", "overwrite_output_dir",
    "per_device_eval_batch_size", "push_to_hub", "remove_unused_columns", "report_to", "resume_from_checkpoint",
    "run_name", "save_steps", "save_strategy", "save_total_limit", "seed", "special_tokens", "strict", "tf32",
    "tokenizer_type", "train_on_inputs", "trust_remote_code", "use_rslora", "val_set_size", "wandb_entity",
    "wandb_log_model", "wandb_name", "wandb_project", "wandb_watch", "warmup_ratio", "warmup_steps", "weight_decay",
})  # fmt: skip
HARMLESS_OF: dict[str, frozenset[str]] = {
    "axolotl": frozenset({
        "bnb_config_kwargs", "dataset_processes", "eval_batch_size", "excess_length_strategy",
        "shuffle_merged_datasets", "loraplus_lr_embedding", "loraplus_lr_ratio", "tokenizer_use_fast",
        "use_tensorboard",
        "base_model", "eval_sample_packing", "evals_per_epoch", "lisa_layers_attribute", "lisa_step_interval",
        "load_in_4bit", "lora_model_dir", "peft_use_rslora", "sample_packing_bin_size", "sample_packing_eff_est",
        "sample_packing_group_size", "sample_packing_mp_start_method", "sample_packing_sequentially", "saves_per_epoch",
    }),
    "llama-factory": frozenset({
        "double_quantization", "loraplus_lr_embedding", "loraplus_lr_ratio", "mask_history", "pissa_convert",
        "pissa_init", "pissa_iter", "quantization_type", "streaming", "tokenized_path", "train_on_prompt",
        "dataset", "dataset_dir", "max_samples", "overwrite_cache", "plot_loss", "preprocessing_num_workers",
        "template", "val_size", "apollo_layerwise", "apollo_proj",
        "apollo_proj_type", "apollo_rank", "apollo_scale", "apollo_scale_type", "apollo_target",
        "apollo_update_interval", "galore_layerwise", "galore_proj_type", "galore_rank", "galore_scale",
        "galore_target", "galore_update_interval",
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
        "assistant_only_loss", "beta", "bnb_4bit_quant_storage", "bnb_4bit_quant_type", "chat_template_path",
        "completion_only_loss", "cpo_alpha", "dataset_kwargs", "dataset_num_proc", "dataset_streaming",
        "dataset_test_split", "dataset_text_field", "dataset_train_split", "discopop_tau", "eos_token", "epsilon",
        "epsilon_high", "eval_packing", "generation_batch_size", "generation_kwargs", "importance_sampling_level",
        "label_smoothing", "lmbda", "log_completions", "mask_truncated_completions", "max_new_tokens",
        "max_prompt_length", "min_p", "model_revision", "num_completions_to_print", "num_generations", "num_iterations",
        "pad_token", "precompute_ref_batch_size", "ref_model_mixup_alpha", "ref_model_sync_steps", "repetition_penalty",
        "reward_weights", "scale_rewards", "seq_kd", "shuffle_dataset", "simpo_gamma", "steps_per_generation",
        "temperature", "top_k", "top_p", "truncation_mode", "use_bnb_nested_quant", "vllm_mode", "vllm_server_host",
        "vllm_server_port", "vllm_server_timeout",
    }),
    "ppo": ppo_keys.LEFT_ALONE - {"bf16"},
    "torchtune": frozenset({
        "device", "log_peak_memory_stats", "model._component_", "model.apply_lora_to_output", "model.lora_alpha",
        "shuffle", "tokenizer._component_", "tokenizer.path",
    }),
    "accelerate": frozenset({
        "compute_environment", "debug", "downcast_bf16", "enable_cpu_affinity", "gpu_ids", "machine_rank",
        "main_training_function", "rdzv_backend", "same_network", "tpu_env", "tpu_use_cluster", "tpu_use_sudo",
        "use_cpu",
    }),
}  # fmt: skip
