"""The committed grid of jobs on which the tape must equal the trace, and the comparison itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, get_args

from oomph.compare import Parting, Step, first_difference, peak_bytes, steps
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob
from oomph.job_words import Checkpointing
from oomph.play import play
from oomph.played import Played
from oomph.trace_groups import trace_start

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2")
# Unsloth's is a package's, held against a recording.
CHECKPOINTING = tuple(kind for kind in get_args(Checkpointing) if kind != "unsloth")
WINDOWS = (None, 2, 8, 30, 100, 101)
JOBS, INFER_JOBS = 160, 60  # of the grids


def config(rng: random.Random, model_type: str) -> dict[str, Any]:
    """A tiny model of odd sizes: heads shared or not, head sizes no kernel likes, windows, tied or not."""
    heads = rng.choice([2, 4, 6, 10])
    raw: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": rng.choice([64, 515, 1013, 4000]),
        "num_hidden_layers": rng.choice([1, 2, 2, 3]),
    }
    hidden = heads * rng.choice([6, 8, 16, 20, 32, 40, 136])
    if model_type == "gpt2":
        rate = rng.choice([0.0, 0.1, 0.1, 0.125])
        return raw | {
            "hidden_size": hidden,
            "num_attention_heads": heads,
            "max_position_embeddings": 128,
            "attn_pdrop": rate,
            "resid_pdrop": rng.choice([0.0, 0.1]),
            "activation_function": rng.choice(["gelu_new", "gelu_new", "gelu", "relu"]),
        }
    raw |= {
        "hidden_size": hidden,
        "intermediate_size": rng.choice([17, 64, 331, 700]),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([1, 2, heads]),
        "hidden_act": rng.choice(["silu", "silu", "gelu_pytorch_tanh"]),
        "max_position_embeddings": 128,
        "tie_word_embeddings": rng.random() < 0.4,
        "attention_dropout": rng.choice([0.0, 0.0, 0.1, 0.25]),
    }
    if model_type == "mistral":
        raw["sliding_window"] = rng.choice(WINDOWS)
    if model_type.startswith("qwen") and rng.random() < 0.4:
        raw |= {"use_sliding_window": True, "sliding_window": rng.choice(WINDOWS), "max_window_layers": 1}
    if model_type == "qwen3":
        raw["head_dim"] = rng.choice([8, 18, 40, 264])
    return raw


def job(rng: random.Random, model_type: str) -> TrainJob:
    """A job of every input the tape plays."""
    padding = rng.random() < 0.4
    return TrainJob(
        batch=rng.choice([1, 2, 3]),
        seq_len=rng.choice([1, 8, 37, 100]),
        precision=rng.choice(["bf16", "fp16", "fp32", "amp-bf16", "amp-fp16"]),
        attention=rng.choice(["flash", "flash", "efficient", "cudnn", "math", "eager"]),
        padding=padding,
        packing=not padding and rng.random() < 0.35,
        dropout=rng.random() < 0.5,
        checkpointing=rng.choice(["none", "reentrant", "non-reentrant"]),
        checkpoint_every=rng.choice([1, 1, 2, 3]),
        use_cache=rng.random() < 0.3,
        hold_logits=rng.random() < 0.5,
        keep_outputs=rng.random() < 0.25,
        fp32_outputs=rng.random() < 0.3,
        accumulation=rng.choice([1, 1, 2, 3]),
        clip_gradients=rng.random() < 0.3,
        optimizer=rng.choice(["adamw", "adamw", "sgd", "sgd-momentum", "none"]),
        implementation=rng.choice(["foreach", "fused", "loop"]),
        steady=rng.random() < 0.7,
        set_to_none=rng.random() < 0.7,
        zero_grad=rng.choice(["after-step", "after-step", "before-forward", "before-backward"]),
    )


def grid(count: int = JOBS, seed: int = 20261122) -> Iterator[tuple[dict[str, Any], TrainJob]]:
    """The jobs, all families in turn."""
    rng = random.Random(seed)
    for index in range(count):
        model_type = FAMILIES[index % len(FAMILIES)]
        yield config(rng, model_type), job(rng, model_type)


def infer_job(rng: random.Random) -> InferJob:
    """A prefill and a few tokens, of every input."""
    seq_len, decode = rng.choice([1, 2, 8, 29, 99]), rng.choice([0, 1, 2, 3])
    return InferJob(
        batch=rng.choice([1, 1, 2, 3]),
        seq_len=seq_len,
        decode=decode,
        precision=rng.choice(["bf16", "fp16", "fp32"]),
        attention=rng.choice(["flash", "flash", "efficient", "cudnn", "math", "eager"]),
        padding=rng.random() < 0.4,
        cache=rng.choice(["none", "dynamic", "dynamic", "static", "static"]),
        max_cache_len=rng.choice([0, seq_len + decode, seq_len + decode + 9]),
        logits_to_keep=rng.choice([0, 1, 1, 2]),
    )


def infer_grid(count: int = INFER_JOBS, seed: int = 20261126) -> Iterator[tuple[dict[str, Any], InferJob]]:
    """Inference jobs, all families in turn."""
    rng = random.Random(seed)
    for index in range(count):
        yield config(rng, FAMILIES[index % len(FAMILIES)]), infer_job(rng)


def casts(job: TrainJob | InferJob) -> bool:
    """Tell whether autocast keeps a cache of casts, whose end has no order."""
    return job.precision.startswith("amp-") or (isinstance(job, TrainJob) and job.autocast)


def played(raw: dict[str, Any], job: TrainJob | InferJob) -> tuple[Played, list[Step]]:
    """The tape's step as a trace would see it, with its comparable events."""
    found = play(model_from_config(raw), job, on="trace")
    stream = found.recorder.stream()
    stream.events = stream.events[: found.end]  # what dies after the step is not the job's
    return found, steps(stream, found.start, casts(job))


def compare(raw: dict[str, Any], job: TrainJob | InferJob) -> tuple[Parting | None, tuple[int, ...], tuple[int, ...]]:
    """Where tape and trace part (None: nowhere), and what each says in bytes.

    That is the peak above what was there before, what lies there when the loss is known, and what is kept: parameters,
    buffers, gradients when all are there, optimizer states.
    """
    from oomph.referee.trace import trace

    tape, ours = played(raw, job)
    traced = trace(raw, job, layer_marks=False)
    start, live = trace_start(traced.stream), [0, *traced.stream.live()]
    theirs = steps(traced.stream, start, casts(job))
    forward = [position for position, name in traced.stream.marks if name == "backward"]
    return (
        first_difference(ours, theirs),
        (
            peak_bytes(ours), tape.live[tape.forward_end] - tape.resident if forward else 0,
            tape.kept("parameter", tape.start), tape.kept("buffer"), tape.kept("gradient", tape.backward_end),
            tape.kept("optimizer state"),
        ),
        (
            peak_bytes(theirs), live[forward[-1]] - live[start] if forward else 0, traced.parameter_bytes,
            traced.buffer_bytes, traced.gradient_bytes, traced.optimizer_bytes,
        ),
    )  # fmt: skip
