"""Keys of config files that move no memory of a step, by framework; keys whose effect is told, not counted."""

from __future__ import annotations

from oomph.runtimes import ppo_keys

# What moves no memory of the job. NEFTune's noise lies beside embedded tokens for a moment, long before any peak.
HARMLESS = frozenset({
    "activation_checkpointing_kwargs", "adam_beta1", "adam_beta2", "adam_epsilon", "chat_template", "data_seed",
    "dataloader_drop_last", "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory",
    "dataloader_prefetch_factor", "dataset_config", "dataset_name", "dataset_prepared_path", "datasets", "ddp_timeout",
    "disable_tqdm", "do_eval", "do_train", "epochs", "eval_accumulation_steps", "eval_delay", "eval_on_start",
    "eval_steps", "eval_strategy", "evaluation_strategy", "full_determinism", "gradient_checkpointing_kwargs",
    "greater_is_better", "group_by_length", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_token",
    "include_num_input_tokens_seen", "label_names", "learning_rate", "load_best_model_at_end", "log_every_n_steps",
    "log_level", "logging_dir", "logging_first_step", "logging_steps", "logging_strategy", "lora_alpha",
    "lora_task_type", "lr_scheduler", "lr_scheduler_kwargs", "lr_scheduler_type", "max_steps", "metric_for_best_model",
    "model_name_or_path", "model_type", "neftune_noise_alpha", "num_epochs", "num_train_epochs", "output_dir",
    "overwrite_output_dir", "per_device_eval_batch_size", "push_to_hub", "remove_unused_columns", "report_to",
    "resume_from_checkpoint", "run_name", "save_only_model", "save_safetensors", "save_steps", "save_strategy",
    "save_total_limit", "seed", "special_tokens", "strict", "tf32", "tokenizer_type", "train_on_inputs",
    "trust_remote_code", "use_rslora", "val_set_size", "wandb_entity", "wandb_log_model", "wandb_name", "wandb_project",
    "wandb_watch", "warmup_ratio", "warmup_steps", "weight_decay",
})  # fmt: skip
HARMLESS_OF: dict[str, frozenset[str]] = {
    "axolotl": frozenset({
        "adam_eps", "auto_resume_from_checkpoints", "base_model", "base_model_config", "bnb_config_kwargs",
        "chat_template_kwargs", "cosine_constant_lr_ratio", "cosine_min_lr_ratio", "curriculum_sampling",
        "dataset_exact_deduplication", "dataset_processes", "ddp_find_unused_parameters", "debug", "device_map",
        "do_causal_lm_eval", "early_stopping_patience", "embeddings_skip_upcast", "eot_tokens", "eta_min",
        "eval_batch_size", "eval_causal_lm_metrics", "eval_max_new_tokens", "eval_sample_packing", "eval_table_size",
        "evals_per_epoch", "excess_length_strategy", "experimental_skip_move_to_device", "flex_attn_compile_kwargs",
        "fsdp_version", "hf_use_auth_token", "is_falcon_derived_model", "is_llama_derived_model",
        "is_mistral_derived_model", "jagged_restart_anneal_steps", "jagged_restart_steps",
        "jagged_restart_warmup_steps", "kto_desirable_weight", "kto_undesirable_weight", "liger_layer_norm",
        "lisa_layers_attribute", "lisa_step_interval", "local_rank", "lora_fan_in_fan_out", "lora_model_dir",
        "lora_on_cpu", "loraplus_lr_embedding", "loraplus_lr_ratio", "loss_watchdog_patience",
        "loss_watchdog_threshold", "low_cpu_mem_usage", "lr_quadratic_warmup", "min_sample_len", "orpo_alpha",
        "otel_metrics_host", "otel_metrics_port", "peft_use_rslora", "processor_type", "qgalore_cos_threshold",
        "qgalore_gamma_proj", "qgalore_proj_bits", "qgalore_proj_group_size", "qgalore_proj_quant", "qgalore_proj_type",
        "qgalore_queue_size", "qgalore_rank", "qgalore_scale", "qgalore_update_proj_gap", "relora_cpu_offload",
        "relora_prune_ratio", "revision_of_model", "rl_beta", "sample_packing_bin_size", "sample_packing_eff_est",
        "sample_packing_group_size", "sample_packing_mp_start_method", "sample_packing_sequentially", "saves_per_epoch",
        "shuffle_merged_datasets", "skip_prepare_dataset", "streaming_multipack_buffer_size",
        "swanlab_completion_log_interval", "swanlab_completion_max_buffer", "swanlab_description",
        "swanlab_experiment_name", "swanlab_log_completions", "swanlab_log_model", "swanlab_mode", "swanlab_project",
        "swanlab_workspace", "tokenizer_config", "tokenizer_legacy", "tokenizer_use_fast",
        "tokenizer_use_mistral_common", "tokens", "torch_compile_mode", "use_otel_metrics", "use_ray", "use_swanlab",
        "use_tensorboard", "use_wandb", "wandb_run_id",
    }),
    "llama-factory": frozenset({
        "apollo_layerwise", "apollo_proj", "apollo_proj_type", "apollo_rank", "apollo_scale", "apollo_scale_type",
        "apollo_target", "apollo_update_interval", "dataset", "dataset_dir", "double_quantization", "eval_dataset",
        "freeze_multi_modal_projector", "galore_layerwise", "galore_proj_type", "galore_rank", "galore_scale",
        "galore_target", "galore_update_interval", "loraplus_lr_embedding", "loraplus_lr_ratio", "mask_history",
        "max_samples", "overwrite_cache", "pissa_convert", "pissa_init", "pissa_iter", "plot_loss",
        "preprocessing_num_workers", "quantization_method", "quantization_type", "ray_num_workers", "streaming",
        "template", "tokenized_path", "train_on_prompt", "val_size",
    }),
    "litgpt": frozenset({
        "access_token", "checkpoint_dir", "logger_name", "out_dir", "resume", "train.epochs", "train.log_interval",
        "train.lr_warmup_steps", "train.max_steps", "train.max_time", "train.min_lr", "train.save_interval",
    }),
    "deepspeed": frozenset({
        "activation_checkpointing", "amp", "bf16", "comms_logger", "communication_data_type", "csv_monitor",
        "data_types", "dump_state", "flops_profiler", "fp16", "gradient_accumulation_steps", "gradient_clipping",
        "gradient_predivide_factor", "memory_breakdown", "optimizer", "prescale_gradients", "scheduler",
        "steps_per_print", "tensorboard", "torch_autocast", "train_batch_size", "train_micro_batch_size_per_gpu",
        "wall_clock_breakdown", "wandb", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    }),
    "trl": frozenset({
        "assistant_only_loss", "beta", "bnb_4bit_quant_storage", "bnb_4bit_quant_type", "chat_template_path",
        "completion_only_loss", "cpo_alpha", "dataset_kwargs", "dataset_mixer", "dataset_mixture", "dataset_num_proc",
        "dataset_prompt_column", "dataset_splits", "dataset_streaming", "dataset_test_split", "dataset_text_field",
        "dataset_train_split", "discopop_tau", "eos_token", "epsilon", "epsilon_high", "eval_packing",
        "generation_batch_size", "generation_kwargs", "hub_always_push", "hub_model_revision",
        "importance_sampling_level", "label_smoothing", "lmbda", "log_completions", "mask_truncated_completions",
        "max_completion_length", "max_new_tokens", "max_prompt_length", "min_p", "model_revision",
        "num_completions_to_print", "num_iterations", "pad_token", "precompute_ref_batch_size", "ref_model_mixup_alpha",
        "ref_model_sync_steps", "repetition_penalty", "reward_weights", "scale_rewards", "seq_kd", "shuffle_dataset",
        "simpo_gamma", "steps_per_generation", "system_prompt", "temperature", "top_k", "top_p", "truncation_mode",
        "use_bnb_nested_quant", "vllm_gpu_memory_utilization", "vllm_mode", "vllm_server_host", "vllm_server_port",
        "vllm_server_timeout",
    }),
    "ppo": (ppo_keys.LEFT_ALONE - {"bf16"}) | {"bnb_4bit_quant_storage", "bnb_4bit_quant_type", "use_bnb_nested_quant"},
    "torchtune": frozenset({
        "batch_size_val", "collate_fn", "device", "log_peak_memory_stats", "low_cpu_ram", "max_steps_per_epoch",
        "model.apply_lora_to_mlp", "model.apply_lora_to_output", "model.lora_alpha", "optimizer.lr",
        "optimizer.weight_decay", "run_val_every_n_steps", "save_adapter_weights_only", "shuffle",
    }),
    "accelerate": frozenset({
        "compute_environment", "debug", "downcast_bf16", "enable_cpu_affinity", "gpu_ids", "machine_rank",
        "main_training_function", "rdzv_backend", "same_network", "tpu_env", "tpu_use_cluster", "tpu_use_sudo",
        "use_cpu",
    }),
}  # fmt: skip
# Sections of which no key moves memory of a step: torchtune's packed rows take flex attention, whose masks are small.
HARMLESS_SECTIONS: dict[str, tuple[str, ...]] = {
    "torchtune": (
        "checkpointer.",
        "dataset.",
        "dataset_val.",
        "lr_scheduler.",
        "metric_logger.",
        "profiler.",
        "tokenizer.",
    ),
    "litgpt": ("data.", "eval.", "log.", "optimizer.init_args."),
}
# Keys that move memory in a way that is not counted, with what they do: an answer is given, and says so.
NOTES: dict[str, dict[str, str]] = {
    "axolotl": {
        "flash_attn_fuse_mlp": "its fused MLP is not played; transformers' own is",
        "fused_attn_kernel": "axolotl's kernel of norms and rotary embedding is not played; torch's own are",
        "liger_rms_norm_gated": "axolotl's gated norm of linear attention is not played; torch's own is",
        "model_config": "what it changes in the model's config is not read",
        "pretraining_dataset": "its rows are taken to be laid out as those of fine-tuning",
        "streaming": "its rows are taken to be laid out as those of data that is there",
        "resize_token_embeddings_to_32x": "rows that are added to the tables are not counted",
        "flash_attn_cross_entropy": "flash-attn's cross entropy is not played; transformers' own is",
        "trl": "its section is not read: a reference that beta asks for and vLLM on the same GPU are not counted",
        "use_kernels": "kernels from the hub are not played; torch's own are",
    },
}
