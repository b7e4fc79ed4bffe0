"""Keys of config files that move no memory of a job, by framework."""

from __future__ import annotations

from oomph.runtimes import ppo_keys

# Of every framework.
HARMLESS = frozenset({
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
        "base_model", "eval_sample_packing", "evals_per_epoch", "lisa_layers_attribute", "lisa_step_interval",
        "load_in_4bit", "lora_model_dir", "peft_use_rslora", "sample_packing_bin_size", "sample_packing_eff_est",
        "sample_packing_group_size", "sample_packing_mp_start_method", "sample_packing_sequentially", "saves_per_epoch",
    }),
    "llama-factory": frozenset({
        "dataset", "dataset_dir", "max_samples", "overwrite_cache", "plot_loss", "preprocessing_num_workers",
        "quantization_method", "save_only_model", "template", "val_size", "apollo_layerwise", "apollo_proj",
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
        "beta", "cpo_alpha", "eval_packing", "lmbda", "max_new_tokens", "seq_kd", "simpo_gamma", "temperature",
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
