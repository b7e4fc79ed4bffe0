"""Rows of llama.cpp's start-up log, and of programs built on it: Ollama's runner, llama-cpp-python, ik_llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

from oomph.answer import Subject
from oomph.engines.ik import IkJob, IkServed
from oomph.engines.llamacpp.builds import EARLY_2025, EARLY_2026, LATE_2025
from oomph.engines.llamacpp.compute import Question as Computed
from oomph.engines.llamacpp.compute import buffers
from oomph.engines.llamacpp.file import File
from oomph.engines.llamacpp.kv import Window
from oomph.engines.llamacpp.printing import printed
from oomph.engines.llamacpp.served import LOGIT, Known, Served, known
from oomph.errors import OomphError
from oomph.score.asking import catalogued
from oomph.score.readers.engines import ik
from oomph.score.readers.engines.llamacpp_log import (
    HOSTS,
    IK,
    agree,
    as_kept,
    devices,
    format_of,
    job_of,
    quote,
    sizes_of,
)
from oomph.score.reading import Answer, Ask, Question, refuse, shown, words
from oomph.units import MIB

DECIMALS = 2  # of what the log prints in MiB
# What rows call a model of the catalogue; each is held against the numbers of the row.
NAMES = {
    "Mistral Nemo Instruct 2407 Absolute Heresy": "mistral-nemo-instruct-2407",
    "Models Mistralai Mistral Nemo Instruct 2407": "mistral-nemo-instruct-2407",
    "Qwen2.5 Coder 7B Instruct GGUF": "qwen2.5-7b-instruct",
    "Llama 3.1 70B Instruct 2024 12": "llama-3.1-70b-instruct",
    "Meta Llama 3.1 70B Instruct": "llama-3.1-70b-instruct",
    "Meta Llama 3.1 8B Instruct": "llama-3.1-8b-instruct",
    "Meta_Llama_3.1_8b_it": "llama-3.1-8b-instruct",
    "TinyLlama": "tinyllama-1.1b-chat-v1.0",
    "Qwen3-4B-abliterated": "qwen3-4b",
    "mistralai_mistral-7b-v0.1": "mistral-7b-v0.1",
    "DeepSeek R1 0528": "deepseek-r1",
    "DeepSeek R1 BF16": "deepseek-r1",
    "Gemma 3 27b It Qat": "gemma-3-27b-it",
    "Qwen3-235B-A22B-mix-IQ6_K-00001-of-00005.gguf": "qwen3-235b-a22b",
    "llama-2-13b-chat.Q8_0.gguf": "llama-2-13b",
    "Kimi K2 Instruct Bf16 Safetensors": "kimi-k2-instruct",
}
# What logs call the cache, and the builds that called it so; whose server made room for all logits of a batch.
TIMES = {
    "llama_kv_cache_init": EARLY_2025,
    "llama_kv_cache_unified": EARLY_2025,
    "sched_reserve": EARLY_2026,
    "llama_kv_cache:": LATE_2025,
}


def subject(row: Mapping[str, Any]) -> Subject | None:
    """Return the model of a row from the catalogue; None where it is not there, or another one of its name."""
    name = words(row, "model")
    try:
        return catalogued(NAMES.get(name, name))
    except OomphError:
        return None


def question(row: Mapping[str, Any], found: Subject | None) -> Question:
    """Return how the buffers of a row are estimated; raises UnsupportedError for a row that says too little."""
    row_sizes = sizes_of(row)
    stored, weighed = format_of(row)
    said = []
    model = _known(found, stored, row) if found is not None else None
    if model is not None and row_sizes is not None and not agree(model.sizes, row_sizes, row):
        model = None
    if model is None:
        said.append("the model is not in the catalogue, or its file differs: the numbers that its log gives")
        if row_sizes is None:
            raise refuse("model", f"{shown(row.get('model'))} is not in the catalogue, and its log gives no numbers")
        model = Known(File((), "row"), row_sizes, None)
        weighed = ("weights", "no config of this model here")
    as_stored = model.sizes
    model = model._replace(sizes=as_kept(model.sizes, row))
    job, placed = job_of(row, model, stored)
    old = str(row.get("engine")).startswith("ollama") and job.gpu_layers is not None
    computes = any(not HOSTS.match(name) for name in devices(row, "compute"))
    served = Served(*model, job, tuple(map(float, placed)) or (1.0,), output_first=not old, present=computes)
    if row.get("engine") == IK:
        served = _ik_served(replace(served, sizes=as_stored), row)
    said += _said(row, placed)
    asks: dict[str, Ask] = {}
    for name in _names(row):
        asks[name] = partial(_ask, served, row, name, weighed)
    return Question(asks, tuple(said))


def _ik_served(served: Served, row: Mapping[str, Any]) -> IkServed:
    """Return the same in ik_llama.cpp, whose cache is its own."""
    said = {each.name: getattr(served.job, each.name) for each in fields(served.job)}
    said |= {"kv_unified": None, "version": ik.BUILD}
    mla = row.get("mla_attn")
    batch = row.get("attn_max_b")
    job = IkJob(
        **said,
        mla=int(mla) if mla in ("1", "2", "3") else 0,
        attention_batch=int(batch) if isinstance(batch, str) and batch.isdigit() and len(batch) < 7 else 0,
        fused_moe=row.get("fused_moe") == "1",
    )
    return IkServed(served.file, served.sizes, served.hparams, job, served.shares, present=served.present)


def _names(row: Mapping[str, Any]) -> Sequence[str]:
    measured = row.get("measured")
    return [name for name in measured if isinstance(name, str)] if isinstance(measured, Mapping) else []


def _ask(served: Served, row: Mapping[str, Any], name: str, weighed: tuple[str, str] | None) -> Answer:
    """Return one line of the log."""
    if name in ("model_gpu_mib", "model_host_mib") and weighed:
        raise refuse(*weighed)
    if name == "kv_gpu_mib":
        raise refuse(name, "which layers are on GPUs is read off this very line")
    if name == "output_buffer_mib" and row.get("n_seq_max") is None:
        raise refuse(name, "how many slots there are is not said")
    if name in ("compute_buffer_mib", "host_buffer_mib"):
        return _computed(served, row, name, weighed)
    lines = {line.name: line.value for line in printed(replace(served, hparams=None), served.job.context or 1)}
    if name == "kv_plus_rs_mib" and "kv_mib" in lines:
        lines[name] = lines["kv_mib"] + lines.get("rs_mib", 0.0)
    if name == "output_buffer_mib" and _is_runner(row):  # embeddings of each slot beside its logits: llama/llama.go
        lines[name] += (served.job.slots or 1) * served.sizes.n_embd * LOGIT / MIB
    if name not in lines:
        raise refuse(name, "not modelled")
    value = round(lines[name], DECIMALS) * MIB if "_mib" in name else lines[name]
    return Answer(value, value)


def _is_runner(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is of Ollama's own runner, not of the server that newer releases start."""
    return str(row.get("engine")).startswith("ollama") and "llama-server" not in str(row.get("cmd"))


def _computed(served: Served, row: Mapping[str, Any], name: str, weighed: tuple[str, str] | None) -> Answer:
    if isinstance(served, IkServed):
        return ik.computed(served, row, name)
    asked = served.question
    if weighed and weighed[1].startswith("-ot"):
        raise refuse(name, weighed[1])
    holders = {each for each in devices(row, "model") if not HOSTS.match(each)}
    others = {each for each in devices(row, "compute") if not HOSTS.match(each)} - holders
    if holders and others and not any(each.endswith("_Mapped") for each in holders):
        raise refuse(name, f"{shown(sorted(others)[0])} computes and holds no layer: a vision part is counted in it")
    if asked is None:
        raise refuse(name, f"llama.cpp's graph of {shown(served.sizes.arch)} is not known, or not this model's config")
    context, slots = served.job.context or 1, served.job.slots or 1
    at = Window(*map(int, served.window(context, slots)))
    of_device = buffers(_of_its_time(asked, row), at)
    value = of_device[-1] if name == "host_buffer_mib" else sum(of_device.values()) - of_device[-1]
    if not value:
        raise refuse(name, "no such buffer with these settings")
    printed_value = round(value / MIB, DECIMALS) * MIB
    return Answer(printed_value, printed_value)


def _of_its_time(asked: Computed, row: Mapping[str, Any]) -> Computed:
    """Return the question as a build of the row's time answers it, which the names of functions in its log tell."""
    said = quote(row)
    build = next((build for name, build in TIMES.items() if name in said), LATE_2025)
    return replace(asked, all_outputs=True, build=build)


def _known(found: Subject, stored: str | None, row: Mapping[str, Any]) -> Known | None:
    try:
        return known(found, stored or "q8_0")  # a mix that is not known: only the weights depend on it
    except OomphError:
        return None


def _said(row: Mapping[str, Any], placed: Sequence[int]) -> list[str]:
    found = ["the build is not said: compute buffers as of builds that make room for all logits of a batch"]
    if row.get("engine") == IK:
        found = list(ik.SAID)
    if row.get("n_seq_max") is None:
        found.append("slots not said: one")
    if placed:
        found.append(f"-ngl not said: {sum(placed) - 1} layers and the output on GPUs, as the lines of the cache show")
    return found
