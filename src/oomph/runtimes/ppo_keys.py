"""The keys of TRL's PPOConfig, and of the arguments that stand beside it in its script.

Its trainer has a loop of its own: it reads neither `gradient_checkpointing` nor `max_grad_norm` nor `use_liger_kernel`,
and since transformers 5 `bf16` tells accelerate nothing. `response_length` is not read: --seq is prompt and answer.
Source: trl 1.12, experimental/ppo/ppo_config.py, ppo_trainer.py.
"""

from __future__ import annotations

from typing import Any

from oomph.runtimes.said import Said

LEFT_ALONE = frozenset({
    "bf16", "cliprange", "cliprange_value", "gamma", "gradient_checkpointing", "kl_coef", "kl_estimator", "lam",
    "max_grad_norm", "missing_eos_penalty", "num_ppo_epochs", "num_sample_generations", "sft_model_path", "stop_token",
    "stop_token_id", "temperature", "total_episodes", "use_liger_kernel", "vf_coef", "whiten_rewards",
})  # fmt: skip


def judged(said: Said, key: str) -> dict[str, Any]:
    """Read the path of a reward model, which no other config names."""
    return {"objective": "ppo"}


def narrow(said: Said, key: str) -> dict[str, Any]:
    """Read `bf16: false`, which is what transformers 5 does in any case."""
    return {} if said.values[key] in (True, "auto", "true") else {"precision": "fp32", "fp32_outputs": False}
