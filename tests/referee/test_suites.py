"""Suites: every input of a job occurs in every value, pairs meet, and what is meant for 8 GiB fits them."""

from __future__ import annotations

from contextlib import suppress
from itertools import combinations
from typing import Any, get_args, get_type_hints

import pytest

from oomph.errors import UnsupportedError, UsageError
from oomph.families import model_from_config
from oomph.job import InferJob, TrainJob, describe
from oomph.job_words import (
    FLASH_ATTN,
    PROMPTED,
    Loss,
    Mixers,
    Objective,
    Quantization,
    Reference,
    Release,
    ServedGptqKernel,
)
from oomph.optimizer_names import KINDS
from oomph.play import train_step
from oomph.referee import suites
from oomph.referee.measure import Entry, identity

ON: dict[str, Any] = {"versions": {}, "environment": {}, "gpu": ""}
GIB = 2**30


def jobs(name: str, kind: type) -> list[dict[str, Any]]:
    return [describe(entry.job) for entry in suites.get(name) if isinstance(entry.job, kind)]


@pytest.mark.parametrize(("name", "least", "most"), [("small", 22, 30), ("standard", 130, 210), ("full", 250, 420)])
def test_sizes_and_names(name: str, least: int, most: int) -> None:
    """No row says the same as another, and each name is one row's."""
    found = suites.get(name)
    ids = {identity(entry, ON): entry.name for entry in found}
    assert least <= len(ids) <= most
    assert len(set(ids.values())) == len(ids)


def test_full_holds_standard_first() -> None:
    """A run of the full suite takes up a file of the standard one."""
    standard = suites.get("standard")
    assert suites.get("full")[: len(standard)] == standard


def test_an_unknown_suite_names_those_there_are() -> None:
    """As every other name that is misspelt."""
    with pytest.raises(UsageError, match="standard"):
        suites.get("large")


@pytest.mark.parametrize("kind", [TrainJob, InferJob])
def test_every_value_of_every_input_occurs(kind: type) -> None:
    """The standard suite has each choice, each switch both ways and at least two of each number."""
    missing = {"precision": {"fp16", "amp-fp16"}} if kind is InferJob else {"precision": {"amp-fp16"}}
    missing["routing"] = {"worst"}  # which experts tokens go to is up to random weights
    missing["attention"] = {*FLASH_ATTN, *(("efficient", "cudnn") if kind is InferJob else ())}  # packages apart
    missing["optimizer"] = set(KINDS)  # they have a suite of their own
    missing["loss"] = set(get_args(Loss)) - {"hf", "mean", "liger"}  # of older versions, or packages apart
    # As bitsandbytes, torch, GPTBigCode and transformers were.
    old = (
        "keeps_4bit_inputs",
        "keeps_softmax_inputs",
        "keeps_cache",
        "heads_of_4_51",
        "denominators_apart",
        "repeats_keys",
    )
    missing |= {key: {True} for key in old}
    # No GPTQ or AWQ checkpoint is made of random weights, hqq and torchao are packages apart, and DeepSpeed is not run.
    missing["quantization"] = {
        name for name in get_args(Quantization) if name.startswith(("gptq", "hqq", "awq", "aqlm", "torchao"))
    }
    missing["quantization"] |= {"fp8"}  # a checkpoint's too
    missing["gptq_kernel"] = set(get_args(ServedGptqKernel))
    missing["release"] = set(get_args(Release)) - {"5"}  # of transformers as it was
    missing["experts"] = {"modules"}  # classes of transformers 4
    missing["checkpointing"] = {"unsloth"}
    missing["weight_quant"] = {True}  # Q-GaLore's optimizer wants another bitsandbytes
    missing["compile"] = {True}  # an estimate, not a job
    missing["activation_offload"] = {"trl", "torchtune", "save-on-cpu"}  # packages apart; a second stream
    # Those of packages that a suite does not ask for: fms-acceleration, Unsloth, axolotl, TRL ...
    missing["mixers"] = set(get_args(Mixers)) - {"torch"}
    missing["kernels"] = {"foak", "unsloth", "axolotl"}
    missing["objective"] = set(get_args(Objective)) - {"sft"}
    missing |= {"task": {"embedding"}, "pooling": {"mean", "cls", "lasttoken"}, "normalize": {False}}
    missing["sentence_transformers"] = {"5"}
    missing |= {"padding_free": {True}, "packed_by": {"lengths", "mask"}}  # of collators, for flash-attn
    missing["teacher_dtype"] = {"bf16", "fp16", "fp32"}
    missing["reference"] = set(get_args(Reference)) - {"default"}
    # LitGPT's own, and those of PEFT that few people use.
    missing["method"] = {
        "adapter",
        "adapter_v2",
        "vera",
        "loha",
        "lokr",
        "adalora",
        "oft",
        "boft",
        "badam",
        "freeze",
        "lisa",
        *PROMPTED,
    }
    missing["model_code"] = set(get_args(get_type_hints(TrainJob)["model_code"])) - {"transformers"}
    missing["objective_code"] = {"llama-factory"}
    missing["qat"] = {"8da4w"}  # not of a standard suite
    missing["wide_tables"] = {True}  # axolotl's
    missing["long_samples"] = {"drop"}  # a step has one length
    elsewhere = (  # of other optimizers, of runs, of objectives, of vision-language models, of few people
        "optim_rank", "zero_stage", "zero_bucket", "lengths", "prompt_len", "virtual_tokens", "block_size", "images",
        "audio", "image_size", "checkpoint_saves", "teacher", "reward_model", "rollout_batch", "mini_batches",
        "negatives", "anchor_len", "mini_batch_size",
        "max_memory",  # of a device map
        "kernel_parts",
        "active_layers", "sequences", "rank_pattern",
    )  # fmt: skip
    missing["freeze_vision"] = {True}
    missing |= {"zero_overlap": {True}, "zero_offload": {"optimizer"}}  # which needs DeepSpeed
    missing["device_map"] = {"auto", "sequential"}  # which are made into a list of modules before they are played
    missing |= {"embedding_32bit": {False}, "optimizer_in_backward": {True}, "update_projection": {True}}
    standard = list(jobs("standard", kind))
    for field, hint in get_type_hints(kind).items():
        found = {job[field] for job in standard}
        if hint in (int, float, str) and field not in elsewhere:
            assert len(found) >= 2, field
        else:
            wanted = set(get_args(hint)) or ({True, False} if hint is bool else set())
            assert wanted - found <= missing.get(field, set()), field


def test_every_optimizer_has_its_rows() -> None:
    """A later step and a first one of each that keeps anything, with fp32 states for embeddings and without."""
    found = jobs("optimizers", TrainJob)
    for name, kind in KINDS.items():
        if name in suites.NOT_MEASURED:
            continue
        assert {job["steady"] for job in found if job["optimizer"] == name} == {True, not kind.has_state}, name
    for switch in ("embedding_32bit", "optimizer_in_backward", "update_projection"):
        assert {job[switch] for job in found} == {True, False}


def test_pairs_of_inputs_meet() -> None:
    """Of the inputs that change a step most, every value meets every other one's in the standard suite."""
    values = {
        "checkpointing": ("none", "reentrant", "non-reentrant"),
        "precision": ("bf16", "amp-bf16", "fp32"),
        "attention": ("flash", "efficient", "cudnn", "math", "eager"),
        "optimizer": ("adamw", "sgd", "sgd-momentum"),
        "hold_logits": (True, False),
        "accumulation": (1, 2),
        "padding": (True, False),
        "implementation": ("foreach", "fused", "loop"),
        "fp32_outputs": (True, False),
    }
    found = jobs("standard", TrainJob)
    missing = [
        (one, a, two, b)
        for one, two in combinations(values, 2)
        for a in values[one]
        for b in values[two]
        if not any(job[one] == a and job[two] == b for job in found)
    ]
    assert missing == []


def test_families_and_tied_heads() -> None:
    """The standard suite has five dense families, four of mixtures, BERT and T5; heads tied or not."""
    found = [model_from_config(entry.config) for entry in suites.get("standard")]
    dense, mixtures = {"llama", "mistral", "qwen2", "qwen3", "gpt2"}, {"mixtral", "qwen3_moe", "gpt_oss", "deepseek_v2"}
    assert {model.model_type for model in found} == dense | mixtures | {"bert", "t5"}
    assert {model.tied for model in found} == {True, False}


def peak_bytes(entry: Entry) -> int:
    """Peak of an entry on the tape, or traced where the tape does not play its job."""
    if isinstance(entry.job, TrainJob):
        with suppress(UnsupportedError):
            return int(train_step(model_from_config(entry.config), entry.job).peak)
    from oomph.referee.trace import trace

    return trace(entry.config, entry.job, layer_marks=False).stream.peak_bytes


@pytest.mark.slow
def test_small_fits_8_gib() -> None:
    """One GiB is left for the context, cuBLAS and what is not allocated in one piece."""
    found = {entry.name: peak_bytes(entry) / GIB for entry in suites.get("small")}
    assert max(found.values()) < 7, {name: size for name, size in found.items() if size >= 7}
