"""What keys of TRL's configs say of objectives, of the lengths that go with them, and of what generates."""

from __future__ import annotations

from typing import Any

from oomph.errors import ConfigError, UnsupportedError
from oomph.runtimes.said import Said, shown

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
    return completions(said, key) if found.get("objective") == "grpo" else found


def completions(said: Said, key: str) -> dict[str, Any]:
    """Read that answers are generated and rewarded: GRPO, whose sequences are a prompt and an answer."""
    found: dict[str, Any] = {"objective": "grpo" if said.values.get("beta") in (None, 0, 0.0) else "grpo-kl"}
    if said.values.get("max_completion_length") and said.values.get("max_prompt_length"):
        prompt_len = said.whole("max_prompt_length")
        found |= {"prompt_len": prompt_len, "seq_len": prompt_len + said.whole("max_completion_length")}
    return found


def beside_vllm(said: Said, key: str) -> dict[str, Any]:
    """Read whether vLLM generates: on another GPU that takes no memory here, on the same one, its default, it does.

    Source: trl 1.16, trainer/grpo_config.py, vllm_mode.
    """
    if said.switch(key) and said.values.get("vllm_mode") != "server":
        why = "vLLM takes its share of the same GPU (vllm_mode: colocate)"
        raise UnsupportedError(f"{said.where}: {key} is not modelled: {why}.", "Leave it out, or ask `oomph serve`.")
    return {}


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
