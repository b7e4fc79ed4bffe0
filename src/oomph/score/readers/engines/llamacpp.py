"""Rows of llama.cpp's start-up log, and of programs built on it: Ollama's runner, llama-cpp-python, ik_llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

from oomph.answer import Subject
from oomph.engines.ik import IkJob, IkServed
from oomph.engines.llamacpp.builds import EARLY_2025, EARLY_2026, LATE_2025
from oomph.engines.llamacpp.compute import Question as Computed
from oomph.engines.llamacpp.compute import buffers
from oomph.engines.llamacpp.deploy import LOGIT, Known, Served, known, printed
from oomph.engines.llamacpp.file import File
from oomph.engines.llamacpp.job import CACHE_TYPES, LlamaCppJob
from oomph.engines.llamacpp.kv import CELLS, Window
from oomph.engines.llamacpp.sizes import OTHER_CACHES, WINDOWED, WITHOUT_CACHE, Kept, Sizes
from oomph.errors import OomphError
from oomph.score.asking import catalogued
from oomph.score.reading import Answer, Ask, Question, refuse, shown, whole, words
from oomph.units import MIB

IK = "ik_llama.cpp"
MOST_LAYERS, MOST_GPUS = 4096, 64
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
# general.file_type in words, of mixes whose rule is known; those of ik_llama.cpp are made by hand for each model.
MIXES = {
    "BF16": "gguf-bf16", "Q8_0": "q8_0", "Q4_0": "q4_0", "Q6_K": "q6_k", "Q2_K - Medium": "q2_k",
    "Q4_K - Medium": "q4_k_m", "Q5_K - Medium": "q5_k_m", "Q5_K - Small": "q5_k_s",
    "IQ4_XS - 4.25 bpw": "iq4_xs-imatrix",    "IQ4_NL - 4.5 bpw": "iq4_nl-imatrix",
}  # fmt: skip
# What logs call the cache, and the builds that called it so; whose server made room for all logits of a batch.
TIMES = {
    "llama_kv_cache_init": EARLY_2025,
    "llama_kv_cache_unified": EARLY_2025,
    "sched_reserve": EARLY_2026,
    "llama_kv_cache:": LATE_2025,
}
_HOSTS = re.compile(r"CPU|.*_Host$|AMX|BLAS")
_LATENT = re.compile(r"c\^KV \((\w{1,10})\)")
_TRANSPOSED = re.compile(r"kv\^T \((\w{1,10})\)")


def subject(row: Mapping[str, Any]) -> Subject | None:
    """Return the model of a row from the catalogue; None where it is not there, or another one of its name."""
    name = words(row, "model")
    try:
        return catalogued(NAMES.get(name, name))
    except OomphError:
        return None


def question(row: Mapping[str, Any], found: Subject | None) -> Question:
    """Return how the buffers of a row are estimated; raises UnsupportedError for a row that says too little."""
    row_sizes = _of_row(row)
    stored, weighed = _format(row)
    said = []
    model = _known(found, stored, row) if found is not None else None
    if model is not None and row_sizes is not None and not _agree(model.sizes, row_sizes, row):
        model = None
    if model is None:
        said.append("the model is not in the catalogue, or its file differs: the numbers that its log gives")
        if row_sizes is None:
            raise refuse("model", f"{shown(row.get('model'))} is not in the catalogue, and its log gives no numbers")
        model = Known(File((), "row"), row_sizes, None)
        weighed = ("weights", "no config of this model here")
    as_stored = model.sizes
    model = model._replace(sizes=_as_kept(model.sizes, row))
    job, placed = _job(row, model, stored)
    old = str(row.get("engine")).startswith("ollama") and job.gpu_layers is not None
    computes = any(not _HOSTS.match(name) for name in _devices(row, "compute"))
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
    said = {each.name: getattr(served.job, each.name) for each in fields(served.job)} | {"kv_unified": None}
    mla = row.get("mla_attn")
    job = IkJob(**said, mla=int(mla) if mla in ("1", "2", "3") else 0)
    return IkServed(served.file, served.sizes, None, job, served.shares, present=served.present)


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
    asked = served.question
    if row.get("engine") == IK:
        raise refuse(name, "ik_llama.cpp builds graphs of its own")
    if weighed and weighed[1].startswith("-ot"):
        raise refuse(name, weighed[1])
    holders = {each for each in _devices(row, "model") if not _HOSTS.match(each)}
    others = {each for each in _devices(row, "compute") if not _HOSTS.match(each)} - holders
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
    quote = _quote(row)
    build = next((build for name, build in TIMES.items() if name in quote), LATE_2025)
    return replace(asked, all_outputs=True, build=build)


def _known(found: Subject, stored: str | None, row: Mapping[str, Any]) -> Known | None:
    try:
        return known(found, stored or "q8_0")  # a mix that is not known: only the weights depend on it
    except OomphError:
        return None


def _format(row: Mapping[str, Any]) -> tuple[str | None, tuple[str, str] | None]:
    """Return the format of the file, and why the weights cannot be told from it, if so."""
    quant = row.get("quant")
    devices = _devices(row, "model")
    if "CPU_REPACK" in devices and "CPU_Mapped" in devices:
        return MIXES.get(str(quant)), ("weights", "those repacked for the CPU are counted twice")
    if "override-tensor" in str(row.get("cmd")) or " -ot " in str(row.get("cmd")):
        return MIXES.get(str(quant)), ("weights", "-ot sends tensors to GPUs of its own choice")
    if isinstance(quant, str) and quant in MIXES and row.get("engine") != IK:
        return MIXES[quant], None
    if isinstance(quant, str) and quant in MIXES:
        return MIXES[quant], ("weights", "which tensors -ot sent to the host is not said")
    return None, (f"quant {shown(quant)}", "which type each tensor has is not said exactly")


def _of_row(row: Mapping[str, Any]) -> Sizes | None:
    """Return the numbers that a log gives, None where it gives none or they do not tell all."""
    arch = row.get("arch")
    if not isinstance(arch, str) or row.get("n_layer") is None:
        return None
    layers = whole(row, "n_layer", MOST_LAYERS)
    k, v = _number(row, "n_embd_k_gqa"), _number(row, "n_embd_v_gqa")
    if k is None or v is None or arch in OTHER_CACHES or arch in WITHOUT_CACHE:
        return None
    if arch in WINDOWED and row.get("n_swa") and row.get("engine") != IK:
        return None
    return Sizes(arch, (Kept(k, v),) * layers, 0, whole(row, "n_vocab"), whole(row, "n_embd"))


def _number(row: Mapping[str, Any], key: str) -> int | None:
    """Return a number that logs print as text; None for a list of one for each layer."""
    value = row.get(key)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else None


def _agree(ours: Sizes, theirs: Sizes, row: Mapping[str, Any]) -> bool:
    """Tell whether the catalogue's model is the one that was served."""
    same = (ours.n_embd, ours.n_vocab, len(ours.kept)) == (theirs.n_embd, theirs.n_vocab, len(theirs.kept))
    latent = ours.latent and row.get("engine") == IK and row.get("mla_attn") not in ("0", None)
    return same and (latent or ours.kept[0].k == theirs.kept[0].k or not ours.kept[0].k)


def _as_kept(sizes: Sizes, row: Mapping[str, Any]) -> Sizes:
    """Return the numbers as the program at hand keeps them.

    ik_llama.cpp has no cache of windows, and with -mla 1 a second copy of the latent, turned.
    """
    if row.get("engine") != IK:
        with_values = sizes.latent and any(name in _quote(row) for name in VALUES_TOO)
        return _with_values(sizes) if with_values else sizes
    transposed = _TRANSPOSED.search(_quote(row)) or row.get("mla_attn") == "1"
    if sizes.latent and transposed:
        return _with_values(sizes)
    return replace(sizes, kept=tuple(replace(each, swa=False) for each in sizes.kept))


def _with_values(sizes: Sizes) -> Sizes:
    return replace(sizes, latent=False, kept=tuple(replace(each, v=LATENT_RANK) for each in sizes.kept))


# Builds of 2025 kept the latent a second time, as values: what logs call their cache.
VALUES_TOO = ("llama_kv_cache_init", "llama_kv_cache_unified")
LATENT_RANK = 512  # kv_lora_rank of every DeepSeek V2, V3 and Kimi K2


def _quote(row: Mapping[str, Any]) -> str:
    found = row.get("quote")
    return found[:20_000] if isinstance(found, str) else ""


def _types(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the types of keys and values: what the log says of a latent cache, else the row's."""
    latent = _LATENT.search(_quote(row))
    said = latent[1] if latent else row.get("kv_dtype") or "f16"
    key, _, value = str(said)[:40].partition("/")
    for name in (key, value or key):
        if name not in CACHE_TYPES:
            raise refuse(f"kv_dtype {shown(said)}", "not a type that is known here")
    return key, value or key


def _job(row: Mapping[str, Any], model: Known, stored: str | None) -> tuple[LlamaCppJob, tuple[int, ...]]:
    """Return the job, and how many layers each GPU has; () without a GPU."""
    n_ctx, slots = whole(row, "n_ctx"), row.get("n_seq_max")
    if n_ctx % CELLS:
        raise refuse(f"n_ctx {n_ctx}", f"of a build that does not pad to {CELLS} cells")
    slots = whole(row, "n_seq_max", 256) if slots is not None else 1
    unified = row.get("kv_unified") in ("true", True)
    key, value = _types(row)
    flash = row.get("flash_attn")
    placed = _placed(row, model.sizes)
    on_gpus = None if sum(placed) > len(model.sizes.kept) else sum(placed)
    return (
        LlamaCppJob(
            context=n_ctx, ctx_size=n_ctx, parallel=slots, kv_unified=unified, concurrency=1,
            batch_size=_number(row, "n_batch") or 2048, ubatch_size=_number(row, "n_ubatch") or 512,
            flash_attn="off" if flash is False else "on", cache_type_k=key, cache_type_v=value,
            gpu_layers=on_gpus, format=stored,
        ),
        placed,
    )  # fmt: skip


def _placed(row: Mapping[str, Any], sizes: Sizes) -> tuple[int, ...]:
    """Return how many layers each GPU has, as the lines of the cache show it; the output counts with the last one."""
    lines, measured = _lines(row, "KV"), row.get("measured")
    if not lines:
        return (len(sizes.kept) + 1,) if isinstance(measured, Mapping) and "model_gpu_mib" in measured else ()
    taken: dict[str, float] = {}
    for line in lines[:MOST_GPUS]:
        if isinstance(line, list) and len(line) == 2 and isinstance(line[0], str) and isinstance(line[1], (int, float)):
            taken[line[0]] = taken.get(line[0], 0.0) + float(line[1])
    whole_cache = sum(taken.values())
    if not 0 < whole_cache < 2**40:
        raise refuse("per_device", "no cache in it")
    layers = len(sizes.kept)
    counts = [round(n / whole_cache * layers) for name, n in sorted(taken.items()) if not _HOSTS.match(name)]
    if not counts or not sum(counts):
        return ()
    if not str(row.get("engine")).startswith("ollama") or sum(counts) == layers:
        counts[-1] += 1
    return tuple(counts)


def _lines(row: Mapping[str, Any], kind: str) -> list[Any]:
    """Return the lines of one kind of buffer, each a device and its MiB."""
    measured = row.get("measured")
    of_kind = measured.get("per_device") if isinstance(measured, Mapping) else None
    found = of_kind.get(kind) if isinstance(of_kind, Mapping) else None
    return found if isinstance(found, list) else []


def _devices(row: Mapping[str, Any], kind: str) -> list[str]:
    return [line[0] for line in _lines(row, kind) if isinstance(line, list) and line and isinstance(line[0], str)]


def _said(row: Mapping[str, Any], placed: Sequence[int]) -> list[str]:
    found = ["the build is not said: compute buffers as of builds that make room for all logits of a batch"]
    if row.get("n_seq_max") is None:
        found.append("slots not said: one")
    if placed:
        found.append(f"-ngl not said: {sum(placed) - 1} layers and the output on GPUs, as the lines of the cache show")
    return found
