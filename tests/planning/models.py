"""Small models for planning, and how jobs on them are judged."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from oomph.answer import Subject
from oomph.devices import Fleet, find
from oomph.families import model_from_config
from oomph.header import Source
from oomph.job import TrainJob
from oomph.planning.bench import Bench
from oomph.units import MIB

# Few layers, so that a tenth of a second is enough; as wide as it takes for each lever to matter.
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "vocab_size": 4096, "hidden_size": 512, "num_hidden_layers": 3, "num_attention_heads": 8,
    "max_position_embeddings": 4096,
}  # fmt: skip
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
HYBRID = {
    **LLAMA, "model_type": "qwen3_5_text", "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "head_dim": 64, "linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 64,
    "linear_value_head_dim": 64, "linear_conv_kernel_dim": 4, "partial_rotary_factor": 0.25,
}  # fmt: skip
CONTEXT = 560  # MiB that a process may hold beside its tensors there


def subject(raw: dict[str, Any]) -> Subject:
    """A model as sources find it."""
    return Subject(Source("small", "config", raw), model_from_config(raw), "config")


def gpu(mib: int) -> Fleet:
    """An A100, of which context and workspaces are known, that shows programs so many MiB."""
    return Fleet(replace(find("a100-80gb-sxm"), program_bytes=mib * MIB))


def bench(raw: dict[str, Any], fleet: Fleet | None = None) -> Bench:
    """A bench for a small model, on a GPU that is large for it."""
    return Bench(subject(raw), fleet or gpu(4000))


def too_small(raw: dict[str, Any], job: TrainJob, share: float) -> Fleet:
    """A GPU that holds the context and this share of what a job's tensors take."""
    peak = bench(raw).peak(job)
    return gpu(CONTEXT + int(peak * share / MIB))


def random_job(rng: random.Random) -> TrainJob:
    """A job of some of the inputs that plans change."""
    return TrainJob(
        batch=rng.choice([1, 2, 3, 6, 8]),
        seq_len=rng.choice([64, 200, 512, 1024]),
        precision=rng.choice(["bf16", "bf16", "amp-bf16"]),
        attention=rng.choice(["flash", "efficient", "eager"]),
        padding=rng.random() < 0.2,
        checkpointing=rng.choice(["none", "none", "non-reentrant", "reentrant"]),
        checkpoint_every=rng.choice([1, 2]),
        hold_logits=rng.random() < 0.7,
        keep_outputs=rng.random() < 0.2,
        fp32_outputs=rng.random() < 0.2,
        accumulation=rng.choice([1, 1, 2]),
        clip_gradients=rng.random() < 0.5,
        optimizer=rng.choice(["adamw", "adamw", "sgd-momentum", "sgd"]),
        implementation=rng.choice(["foreach", "fused"]),
        set_to_none=rng.random() < 0.8,
    )


def random_model(rng: random.Random) -> dict[str, Any]:
    """A small Llama or GPT-2 of other sizes."""
    raw = dict(rng.choice([LLAMA, GPT2]))
    raw |= {"num_hidden_layers": rng.choice([1, 2, 3]), "vocab_size": rng.choice([500, 4096, 20000])}
    return raw | {"tie_word_embeddings": rng.random() < 0.5}
