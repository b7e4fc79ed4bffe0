"""Suites: lists of jobs on models of real widths that together show whether estimates hold, most telling rows first.

`small` fits a GPU of 8 GiB and takes minutes; `standard` is for one of 140 GiB and half an hour at most; `full` adds
more of the same. On a smaller GPU the rows that do not fit say so. To add a row, write a line here (docs/measure.md).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import combinations
from typing import Any

from oomph.errors import UsageError
from oomph.job import InferJob, TrainJob
from oomph.optimizer_names import KINDS
from oomph.referee.measure import Entry, name_of
from oomph.sources import catalogue

GPT2, MEDIUM, LARGE, XL = "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"
SMOL, SMOL_360M = "smollm2-135m-instruct", "smollm2-360m-instruct"
QWEN2, QWEN2_1B, QWEN2_3B, QWEN2_7B = "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b-instruct", "qwen2.5-7b"
QWEN3, QWEN3_1B, QWEN3_4B, QWEN3_8B = "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b"
TINY, LLAMA_1B, LLAMA_3B, LLAMA_8B = "tinyllama-1.1b-chat-v1.0", "llama-3.2-1b", "llama-3.2-3b", "llama-3-8b"
MISTRAL = "mistral-7b-v0.1"
BERT, T5 = "bert-large-uncased", "t5-base"
MIXTRAL, QWEN3_MOE, GPT_OSS, DEEPSEEK = "mixtral-8x7b-v0.1", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite"


def get(name: str) -> list[Entry]:
    """Return a suite by name."""
    if name not in SUITES:
        raise UsageError(f"There is no suite {name[:40]!r}.", f"Choose one of {', '.join(SUITES)}.")
    return list(SUITES[name]())


def _entry(model: str, job: TrainJob | InferJob, layers: int = 0, **config: Any) -> Entry:
    """Return an entry for a model of the catalogue, with fewer layers or other changes to its config if asked for."""
    found = catalogue.find(model)
    assert found is not None  # a test gets every suite
    assert found.config is not None
    if layers:
        config["n_layer" if found.config["model_type"] == "gpt2" else "num_hidden_layers"] = layers
    name = name_of(model, job, config)
    if layers and "layer_types" in found.config:
        config["layer_types"] = found.config["layer_types"][:layers]
    return Entry(name, model, {**found.config, **config}, job)


def _train(model: str, seq_len: int = 1024, batch: int = 1, layers: int = 0, **job: Any) -> Entry:
    return _entry(model, TrainJob(batch=batch, seq_len=seq_len, **job), layers)


def _infer(model: str, seq_len: int = 2048, batch: int = 1, **job: Any) -> Entry:
    return _entry(model, InferJob(batch=batch, seq_len=seq_len, **job))


# Every input of a training step, one at a time, away from the default.
ONE_AT_A_TIME: tuple[dict[str, Any], ...] = (
    {"checkpointing": "non-reentrant"}, {"precision": "amp-bf16"}, {"attention": "eager"}, {"optimizer": "none"},
    {"checkpointing": "reentrant"}, {"precision": "fp32"}, {"padding": True}, {"implementation": "fused"},
    {"implementation": "loop"}, {"optimizer": "sgd"}, {"optimizer": "sgd-momentum"}, {"attention": "efficient"},
    {"attention": "math"}, {"attention": "cudnn"}, {"accumulation": 2}, {"clip_gradients": True},
    {"hold_logits": False}, {"fp32_outputs": True}, {"steady": False}, {"set_to_none": False}, {"use_cache": True},
    {"checkpointing": "non-reentrant", "checkpoint_every": 2}, {"checkpointing": "reentrant", "checkpoint_every": 2},
    {"precision": "amp-bf16", "fp32_outputs": True}, {"precision": "fp16"}, {"keep_outputs": True},
    {"zero_grad": "before-forward"}, {"zero_grad": "before-backward"}, {"packing": True},
)  # fmt: skip

# What mixed jobs are drawn from. Values repeat where they are common in use.
AXES: dict[str, tuple[Any, ...]] = {
    "checkpointing": ("none", "none", "non-reentrant", "non-reentrant", "reentrant"),
    "checkpoint_every": (1, 1, 2),
    "precision": ("bf16", "bf16", "bf16", "amp-bf16", "amp-bf16", "fp32"),
    "attention": ("flash", "flash", "flash", "flash", "efficient", "cudnn", "math", "eager"),
    "padding": (False, False, False, True),
    "optimizer": ("adamw", "adamw", "adamw", "adamw", "sgd", "sgd-momentum", "none"),
    "implementation": ("foreach", "foreach", "fused", "loop"),
    "accumulation": (1, 1, 1, 2, 3),
    "clip_gradients": (False, True),
    "hold_logits": (True, False),
    "fp32_outputs": (False, False, True),
    "set_to_none": (True, True, True, False),
    "seq_len": (128, 256, 512, 1000, 1024, 1536, 2048, 4096),  # 1000: no multiple of a kernel's block
}
CANDIDATES = 50  # drawn for each row; the one with most pairs of values that no row had is taken
TOKENS = (1024, 2048, 4096)  # in a micro-batch, as far as whole sequences go
QUADRATIC = ("eager", "math")  # kernels whose scores take memory by the square of the length
LONGEST_SCORES = 1024
GPT2_POSITIONS = 1024


def _mixed(models: Iterable[tuple[str, int]], seed: str) -> Iterator[Entry]:
    """Yield a job per (model, layers; 0 is all) such that pairs of values meet early, then as they are common."""
    met: set[tuple[tuple[str, Any], tuple[str, Any]]] = set()
    rng = random.Random(seed)
    for model, layers in models:
        drawn = [{axis: rng.choice(values) for axis, values in AXES.items()} for _ in range(CANDIDATES)]
        job = max(drawn, key=lambda each: len({*combinations(each.items(), 2)} - met))
        met.update(combinations(job.items(), 2))
        length, tokens = job.pop("seq_len"), rng.choice(TOKENS)
        if job["checkpointing"] == "none":
            del job["checkpoint_every"]
        if job["attention"] in QUADRATIC:
            length = min(length, LONGEST_SCORES)
        if model in (GPT2, MEDIUM, LARGE, XL):
            length = min(length, GPT2_POSITIONS)
        yield _train(model, length, max(1, tokens // length), layers, **job)


def small() -> Iterator[Entry]:
    """Some twenty-five rows for a GPU of 8 GiB: every input once on a model of 135 million parameters, and others."""
    yield _train(SMOL)
    yield _train(GPT2, batch=2)
    yield _train(QWEN3, 512, checkpointing="non-reentrant", layers=14)
    yield _infer(QWEN3, decode=4)
    yield _train(LLAMA_1B, 512, layers=2, hold_logits=False)
    yield from (_train(SMOL, 512, 2, **changes) for changes in ONE_AT_A_TIME[:17])
    yield _train(QWEN2, 512, optimizer="sgd")
    yield _train(GPT2, batch=2, precision="amp-bf16", checkpointing="reentrant")
    yield _infer(QWEN2, 1024, batch=4, decode=4, cache="static")
    yield _infer(LLAMA_1B, 4096, logits_to_keep=0)


def standard() -> Iterator[Entry]:
    """Some hundred and sixty rows for a GPU of 140 GiB."""
    yield _train(LLAMA_1B, 2048)
    yield _train(LLAMA_8B, 2048)
    yield _train(QWEN3, 2048, 4)
    yield _train(GPT2, batch=8)
    yield _train(MISTRAL, 4096, checkpointing="non-reentrant")
    yield _infer(LLAMA_8B, decode=4)
    yield _train(QWEN2_1B, 2048, 2, precision="amp-bf16")
    yield from (_train(LLAMA_1B, 1024, 2, **changes) for changes in ONE_AT_A_TIME)
    yield from _inference(LLAMA_1B, QWEN3_8B)
    yield from _quantised_inference()
    yield from _lengths_and_batches()
    yield from (_train(GPT2, 1024, 4, **changes) for changes in ONE_AT_A_TIME[:9])
    yield _train(GPT2, 1024, 4, dropout=False)
    yield _train(GPT2, 1024, 4, dropout=False, attention="eager")
    some = (QWEN3, LLAMA_1B, GPT2, QWEN2, TINY, SMOL_360M, MEDIUM)
    larger = ((LLAMA_8B, 4), (QWEN3_1B, 0), (MISTRAL, 6), (QWEN2_7B, 4), (QWEN3_8B, 4), (LLAMA_3B, 8), (XL, 12))
    yield from _mixed(
        [each for pair in zip([(name, 0) for name in some], larger, strict=True) for each in pair] * 5, "standard"
    )
    yield from _methods(LLAMA_1B)
    yield from _tasks()
    yield from _large()
    yield from _mixtures()


def _methods(model: str) -> Iterator[Entry]:
    """Yield jobs of every method of fine-tuning and of every input that only methods have."""
    lora = partial(_train, model, method="lora", targets="all-linear")
    for checkpointing in ("none", "reentrant", "non-reentrant"):
        yield lora(checkpointing=checkpointing)
    yield lora(rank=64, adapter_dtype="base")
    yield lora(adapter_dropout=0.05, precision="amp-bf16")
    yield lora(autocast=True, fp32_outputs=True)
    yield lora(modules_to_save="lm_head")
    yield _train(model, method="lora")
    for quantization in ("nf4", "nf4-dq", "fp4", "fp4-dq", "int8"):
        yield lora(quantization=quantization)
    yield _train(model, method="dora", adapter_dropout=0.05)
    for checkpointing in ("none", "reentrant"):
        yield _train(model, method="qlora", checkpointing=checkpointing)
    yield _train(model, method="qlora", narrow_tables=True)
    yield _train(QWEN2, method="bitfit")
    yield _train(model, method="ia3")
    yield _train(model, method="lora-fa")
    yield _train(model, method="ln-tuning")
    yield _train(model, freeze_embeddings=True, freeze_layers=2)
    yield from (_train(model, loss=loss) for loss in ("mean", "liger"))
    yield _train(model, kernels="liger", loss="liger")


def _tasks() -> Iterator[Entry]:
    """Yield models that fill in masks, tell sequences apart, or rate them with one number."""
    yield _train(BERT, 512, 8, task="masked-lm")
    yield _train(BERT, 512, 8, task="sequence-classification", labels=3, attention="eager")
    yield _train(LLAMA_1B, task="sequence-classification", labels=1)
    yield _train(LLAMA_1B, task="causal-lm")
    yield _train(T5, 512, 8, attention="eager", target_len=128)


def _inference(small_one: str, large_one: str) -> Iterator[Entry]:
    """Yield prefill and decoding with every cache, on a model with a tied head and on a larger one without."""
    for changes in (
        {"decode": 4}, {"decode": 4, "cache": "static"}, {"cache": "none", "logits_to_keep": 0}, {"logits_to_keep": 0},
        {"decode": 2, "padding": True}, {"attention": "eager", "seq_len": 1024}, {"batch": 8, "seq_len": 512},
        {"decode": 2, "cache": "static", "max_cache_len": 8192}, {"attention": "math", "seq_len": 1024},
        {"decode": 4, "cache": "fp8"},
        {"precision": "fp32"},
    ):  # fmt: skip
        yield _infer(small_one, **changes)
    yield _infer(large_one, 8192, decode=4)
    yield _infer(large_one, 2048, batch=4, decode=4, cache="static")
    yield _infer(GPT2, 1000, batch=4, decode=4)
    yield _infer(large_one, 32768)


def _quantised_inference() -> Iterator[Entry]:
    """Yield prefill and decoding with caches that are quantised or offloaded, and with weights in every format of
    bitsandbytes.
    """
    for changes in (
        {"decode": 4, "beams": 4, "batch": 4}, {"decode": 4, "cache": "hqq"}, {"decode": 4, "cache": "offloaded"},
        {"decode": 4, "cache": "offloaded_static"}, {"decode": 2, "offload": "model.layers.4-15,model.norm"},
        {"decode": 2, "candidates": 10}, {"decode": 1, "candidates": 4, "assistant": GPT2},
        {"decode": 4, "cache": "quanto", "cache_bits": 2, "cache_axis": 1, "cache_group": 32, "cache_residual": 2},
        {"decode": 2, "quantization": "nf4"}, {"quantization": "nf4-dq"},
        {"quantization": "fp4", "compute_fp32": True}, {"quantization": "fp4-dq"},
        {"decode": 2, "quantization": "int8", "precision": "fp16"},
    ):  # fmt: skip
        yield _infer(LLAMA_1B, **changes)


def _lengths_and_batches() -> Iterator[Entry]:
    """Yield the same job at many lengths and batches: what grows with them, and how."""
    for length, batch in ((128, 1), (512, 1), (4096, 1), (8192, 1), (2048, 4), (256, 16), (777, 3), (1, 1)):
        yield _train(QWEN3, length, batch)
    for length in (8192, 16384):
        yield _train(LLAMA_1B, length, checkpointing="non-reentrant", hold_logits=False)


def _large() -> Iterator[Entry]:
    """Yield whole models of 3 to 8 billion parameters: 60 to 130 GiB."""
    yield _train(QWEN3_4B, 2048, checkpointing="non-reentrant", implementation="fused")
    yield _train(LLAMA_3B, 4096, precision="amp-bf16", checkpointing="non-reentrant")
    yield _train(QWEN2_7B, 2048, optimizer="sgd-momentum", implementation="loop")
    yield _train(LLAMA_8B, 4096, 2, checkpointing="reentrant", clip_gradients=True)
    yield _train(QWEN3_8B, 1024, precision="amp-bf16", checkpointing="non-reentrant")
    yield _train(QWEN2_3B, 2048, 4, precision="fp32", optimizer="sgd")
    yield _train(XL, 1024, 4, precision="amp-bf16", checkpointing="non-reentrant")
    yield _infer(LLAMA_8B, 8192, batch=4, logits_to_keep=0)


def _mixtures() -> Iterator[Entry]:
    """Yield a few layers of mixtures of experts. In the eager form random weights route tokens about evenly."""
    for model, layers in ((MIXTRAL, 2), (QWEN3_MOE, 2), (GPT_OSS, 2), (DEEPSEEK, 3)):
        yield _train(model, 2048, 1, layers)
    yield _train(MIXTRAL, 2048, 1, 2, checkpointing="non-reentrant", optimizer="sgd")
    yield _train(MIXTRAL, 2048, 1, 2, method="qlora", targets="q_proj,v_proj", quantised_experts=True)
    yield _train(QWEN3_MOE, 1024, 2, 2, precision="amp-bf16", optimizer="none")
    yield _train(QWEN3_MOE, 1024, 1, 2, experts="eager", optimizer="none")
    yield _train(QWEN3_MOE, 64, 1, 2, experts="batched_mm", optimizer="none")
    for experts in ("grouped_mm", "eager", "batched_mm"):
        yield _entry(QWEN3_MOE, InferJob(seq_len=64, decode=2, experts=experts), 4)


def full() -> Iterator[Entry]:
    """Return the standard suite, then each input alone on more models and more mixed jobs."""
    yield from standard()
    for model in (QWEN3, QWEN2, TINY):
        yield from (_train(model, 1024, 2, **changes) for changes in ONE_AT_A_TIME)
    yield from (_train(MISTRAL, 1024, 2, layers=8, **changes) for changes in ONE_AT_A_TIME)
    for model in (QWEN2_1B, MISTRAL):
        yield from _inference(model, LLAMA_8B)
    models = [(QWEN3_4B, 0), (QWEN2_3B, 0), (LLAMA_3B, 0), (LARGE, 0), (QWEN3_1B, 0), (MISTRAL, 12), (XL, 0)]
    yield from _mixed(models * 10, "full")


def optimizers() -> Iterator[Entry]:
    """Yield every optimizer on one model, a later step and, where that makes states, the first; some on two others."""
    for name, kind in KINDS.items():
        if name in NOT_MEASURED:
            continue
        precision = "fp16" if name.startswith(WITHOUT_BF16) else "bf16"
        yield _train(SMOL, 512, 2, optimizer=name, precision=precision)
        if kind.has_state:
            yield _train(SMOL, 512, 2, optimizer=name, precision=precision, steady=False)
    yield _train(SMOL, 512, 2, optimizer="galore_adamw", optim_rank=16)
    yield _train(SMOL, 512, 2, optimizer="galore_adamw", update_projection=True)
    for name in ("adamw_8bit", "paged_adamw_8bit", "lion_8bit"):
        yield _train(SMOL, 512, 2, optimizer=name, embedding_32bit=False)
    for name in ("adamw", "adamw_8bit", "adafactor"):
        yield _train(SMOL, 512, 2, optimizer=name, optimizer_in_backward=True)
        yield _train(SMOL, 512, 2, optimizer=name, optimizer_in_backward=True, checkpointing="reentrant")
    for name in ("adamw_8bit", "paged_adamw_32bit", "adafactor", "lion_8bit"):
        yield _train(LLAMA_1B, 1024, optimizer=name)
        yield _train(GPT2, 1024, optimizer=name, precision="amp-bf16")


# What transformers 5 has no more, and what wants a bitsandbytes older than others here run with.
NOT_MEASURED = ("adamw_hf", "q_galore_adamw8bit", "q_galore_adamw8bit_per_layer")
# Those of bitsandbytes that have no kernel for fp32 states and bf16 gradients.
WITHOUT_BF16 = ("rmsprop_bnb", "lars", "adagrad_bnb", "sgd_bnb")
SUITES = {"small": small, "standard": standard, "full": full, "optimizers": optimizers}
