"""Rows of vLLM's start-up log: its lines, estimated for the job that printed them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any
from urllib.parse import unquote

from oomph import data
from oomph.answer import Subject
from oomph.devices import Device
from oomph.engines.base import Deployment
from oomph.engines.checks import DTYPES
from oomph.engines.vllm import deploy
from oomph.engines.vllm.job import VllmJob
from oomph.ledger import Printed
from oomph.score.asking import catalogued, device
from oomph.score.readers.engines.common import UNQUANTISED
from oomph.score.readers.engines.vllm_copies import Copy, plain, read
from oomph.score.reading import Answer, Ask, Question, notes, number, refuse, shown, whole, words
from oomph.units import GIB

PUBLISHED = ("auto", "auto(bf16)")
# How rows call what a config's quantization_config calls otherwise.
METHODS = {"awq_marlin": "awq", "gptq_marlin": "gptq", "fp8": "fp8", "mxfp4": "mxfp4", "awq": "awq", "gptq": "gptq"}
METHODS |= {"bitsandbytes": "bitsandbytes", "bnb-nf4": "bitsandbytes", "bnb-nf4 (unsloth dynamic)": "bitsandbytes"}
METHODS |= {"compressed-tensors": "compressed-tensors", "mxfp4 (Marlin)": "mxfp4"}
WHILE_LOADING = ("fp8", "bitsandbytes")
MARLIN = "Marlin"
FIRST_CORE = "0.7.3"  # of rows that say no more than "V0": its last version of its own
MOST, USUAL_BLOCK = 2.0**40, 16  # of any figure of a log; tokens of a block where all layers see all tokens
UNIT = {"weights_gib": GIB, "kv_cache_gib": GIB, "activation_peak_gib": GIB}
OUTSIDE_TORCH = "measured on the rows it would be judged by (vllm_non_torch)"
TAKEN_OFF = ("t4", 2)  # where what lies beside torch is known from what the pools of such rows left over
FROM_LOGGED = ("kv_tokens", "kv_blocks", "max_concurrency")
INSIDE = {  # what is counted as weights beside the model's own
    "Unsloth": "slots for adapters are counted in it, of a rank that the program chose and the row does not say",
    "NPU build": "how that build lays out quantised weights is not known",
}
_DRAFT = re.compile(r"method='(\w{1,40})'(?:, model='([^']{1,200})')?.{0,200}?num_spec_tokens=(\d{1,3})")
_PAGE = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)/blob/\w+/([^#]+)")
ADAPTERS = "LoRA enabled"
USUAL = "util not among non-default args"
# Flags that the page of a row may tell.
FLAGS = ("version", "dtype", "max_num_seqs", "max_num_batched_tokens", "max_lora_rank", "language_model_only",
         "enable_prefix_caching")  # fmt: skip


def subject(row: Mapping[str, Any]) -> Subject:
    """Return the model of a row, of a copy the one it was made of, stored as the row's own log or its maker says."""
    copied = _copied(row)
    found = catalogued(copied.model)
    stored = page(row).get("quantization_config", copied.config)
    if stored is None:
        return found
    config = {**(found.source.config or {}), "quantization_config": stored}
    # a model of its own, because what was worked out of one is kept with it
    return replace(found, source=replace(found.source, config=config), model=replace(found.model))


def _copied(row: Mapping[str, Any]) -> Copy:
    """Return what a row's model is taken for."""
    name, quant = words(row, "model"), row.get("quant")
    return read(name, quant if isinstance(quant, str) else None) or Copy(plain(name))


def page(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the log that a row was read off says and the row does not, {} where no more is known."""
    known: Mapping[str, Any] = _logs()["pages"].get(_path(row), {})
    return known


def _path(row: Mapping[str, Any]) -> str:
    """Return the repository and path of the page that a row was read off, "" where it names none."""
    found = _PAGE.match(unquote(str(row.get("source_url"))[:2000]))
    return f"{found[1]}/{found[2]}" if found else ""


@cache
def _logs() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(data.read_text("vllm_logs.json"))
    return found


def question(row: Mapping[str, Any], found: Subject) -> Question:
    """Return how the lines of a row are estimated: of the job, or where only that is known, of the GiB it logged."""
    said, assumed = _format(row, found)
    gpu = _gpu(row)
    job = replace(_job(row, gpu, assumed), quantization=said.get("quantization"), format=said.get("format"))
    alone = "sweep" in row
    asks: dict[str, Ask] = {"weights_gib": lambda: _weights(row, found, job, gpu)}
    asks["non_torch_gib"] = _outside_torch
    for name in ("kv_cache_gib", "activation_peak_gib"):
        asks[name] = lambda name=name: _line(found, job, gpu, name, row)  # type: ignore[misc]
    if gpu is not None and (gpu.id, job.tensor_parallel) == TAKEN_OFF:
        asks["kv_cache_gib"] = _outside_torch
    for name in FROM_LOGGED:
        asks[name] = lambda name=name: (  # type: ignore[misc]
            _line(found, job, gpu, name, row) if alone else _logged(row, found, job, gpu, name)
        )
    return Question(asks, tuple(assumed))


def _job(row: Mapping[str, Any], gpu: Device | None, assumed: list[str]) -> VllmJob:
    """Return the job of a row, without its format."""
    version = row.get("engine_version")
    if version is None:
        version = FIRST_CORE if "V0" in notes(row) else ""
        assumed.append(f"version not said: {version or 'the newest known here'}")
    dtype = row.get("dtype")
    if dtype is not None and dtype not in PUBLISHED and (not isinstance(dtype, str) or dtype not in DTYPES):
        raise refuse(f"dtype {shown(dtype)}", "not a dtype of weights that oomph knows")
    values: dict[str, Any] = {
        "version": str(version),
        "dtype": "auto" if dtype is None or dtype in PUBLISHED else dtype,
        "kv_cache_dtype": "auto" if row.get("kv_dtype") in (None, *PUBLISHED) else str(row["kv_dtype"]),
        "enforce_eager": row.get("enforce_eager") is True,
        "mxfp4_use_marlin": MARLIN in str(row.get("quant")),
        "speculative_config": _drafts(notes(row)),
    }
    names = {"tp": "tensor_parallel", "pp": "pipeline_parallel", "max_model_len": "max_model_len"}
    names |= {"max_num_batched_tokens": "max_num_batched_tokens", "max_num_seqs": "max_num_seqs"}
    values |= {field: whole(row, key) for key, field in names.items() if row.get(key) is not None}
    # Where the log names none the version's own holds, whatever the row's reader took for it.
    values["gpu_memory_utilization"] = None if USUAL in notes(row) else number(row.get("gpu_memory_utilization"))
    if row.get("enable_prefix_caching") is not None:
        values["enable_prefix_caching"] = row["enable_prefix_caching"] is True
    if ADAPTERS in notes(row):
        values["enable_lora"] = True
        assumed.append("slots for adapters as vLLM makes them by default: one, of rank 16")
    if gpu is None and row.get("max_num_batched_tokens") is None:
        assumed.append("GPU not said: steps as on a small one")
    return VllmJob(**{**values, **_of_page(row, assumed)})


def _of_page(row: Mapping[str, Any], assumed: list[str]) -> dict[str, Any]:
    """Return the flags that the page of a row names, which are more, and more exact, than the row's."""
    known = page(row)
    if not known:
        return {}
    assumed[:] = [f"vLLM {known['version']} and its flags as the row's page logs them"]
    if "assumed" in known:
        assumed.append(str(known["assumed"]))
    found = {name: known[name] for name in FLAGS if name in known}
    if "max_lora_rank" in known:
        found |= {"enable_lora": True, "allocator": known.get("allocator", _logs()["allocator"])}
    return found


def _drafts(text: str) -> str | None:
    found = _DRAFT.search(text[:2000])
    if found is None:
        return None
    return json.dumps({"method": found[1], "model": found[2] or "", "num_speculative_tokens": int(found[3])})


def _gpu(row: Mapping[str, Any]) -> Device | None:
    """Return the GPU of a row; None where its name is that of several with different memory."""
    said, total = row.get("gpu"), _total(row)
    sold_in_two_sizes = isinstance(said, str) and said.strip().lower() in ("a100", "nvidia a100")
    return None if sold_in_two_sizes and total is None else device(said, total)


def _total(row: Mapping[str, Any]) -> int | None:
    total = number(row.get("gpu_total_gib"))
    return round(total * GIB) if total is not None and 0 < total < 2**14 else None


def _format(row: Mapping[str, Any], found: Subject) -> tuple[dict[str, str], list[str]]:
    """Return what the job says of the format of the weights, and what had to be assumed."""
    quant, copied = row.get("quant"), _copied(row)
    asked = (found.source.config or {}).get("quantization_config")
    method = asked.get("quant_method") if isinstance(asked, Mapping) else None
    said = [copied.assumed] if copied.assumed else []
    if quant is None or quant in UNQUANTISED:
        if method is not None and quant is not None:
            raise refuse(f"quant {shown(quant)}", f"the model is published in {shown(method)}")
        return {}, said if row.get("dtype") else [*said, "dtype not said: as published, the engine's default"]
    if not isinstance(quant, str):
        raise refuse("quant", f"{shown(quant)} is not text")
    if method is not None and METHODS.get(quant) == method:
        return {}, said
    if "quantization" in page(row):
        return {"quantization": str(page(row)["quantization"])}, [f"{quant} made while loading, as the page logs it"]
    if copied.format is not None and method is None:
        return {"format": copied.format}, said
    if METHODS.get(quant) in WHILE_LOADING and method is None and not copied.mixed:
        return {"quantization": METHODS[quant]}, [*said, f"{quant} made while loading, vLLM's way"]
    return {"unknown": f"quant {shown(quant)}"}, []


def _ranks(job: VllmJob, gpu: Device | None) -> list[Device]:
    return [gpu] * job.ranks if gpu is not None else []


def _answer(deployed: Deployment, name: str) -> Answer:
    line: Printed | None = next((each for each in deployed.printed if each.name == name), None)
    if line is None:
        raise refuse(name, "what the engine's trial step takes on this GPU is not known")
    unit = UNIT.get(name, 1)
    return Answer(line.value * unit, (line.value if line.safe is None else line.safe) * unit)


def _weights(row: Mapping[str, Any], found: Subject, job: VllmJob, gpu: Device | None) -> Answer:
    _known_weights(row, found)
    return _answer(deploy(found, job, _ranks(job, gpu)), "weights_gib")


def _known_weights(row: Mapping[str, Any], found: Subject) -> None:
    for word, why in INSIDE.items():
        if word in notes(row) and not page(row):
            raise refuse(f"weights with {word}", why)
    if _path(row) in _logs()["told_by_size"]["pages"]:
        raise refuse("weights", "which modules this checkpoint leaves alone is told by its size alone")
    said, _ = _format(row, found)
    if "unknown" in said:
        raise refuse(said["unknown"], "which format that is, is not said exactly")


def _outside_torch() -> Answer:
    raise refuse("non_torch_gib", OUTSIDE_TORCH)


def _line(found: Subject, job: VllmJob, gpu: Device | None, name: str, row: Mapping[str, Any]) -> Answer:
    """Return a line from the configuration alone."""
    if gpu is None:
        raise refuse(name, "which GPU is not said exactly, and it depends on its memory")
    if job.gpu_memory_utilization is None and USUAL not in notes(row):
        raise refuse(name, "--gpu-memory-utilization is not said")
    _known_weights(row, found)
    return _answer(deploy(found, job, _ranks(job, gpu)), name)


def _logged(row: Mapping[str, Any], found: Subject, job: VllmJob, gpu: Device | None, name: str) -> Answer:
    """Return tokens, blocks or requests of the GiB that the row logged; weights do not matter to them."""
    room = _measured(row, "kv_cache_gib")
    if name == "max_concurrency" and row.get("max_model_len") is None:
        raise refuse(name, "max_model_len is not said")
    dtype = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}.get(job.dtype, "bf16")
    job = replace(job, quantization=None, format=dtype, enable_lora=False)
    if room is None and name == "max_concurrency":
        return _of_blocks(row, found, job, gpu)
    if room is None:
        raise refuse(name, "the row logs no GiB for keys and values to start from")
    return _answer(deploy(found, replace(job, kv_cache_memory_bytes=round(room * GIB)), _ranks(job, gpu)), name)


def _measured(row: Mapping[str, Any], name: str) -> float | None:
    measured = row.get("measured")
    found = number(measured.get(name)) if isinstance(measured, Mapping) else None
    return found if found is not None and 0 < found < MOST else None


def _of_blocks(row: Mapping[str, Any], found: Subject, job: VllmJob, gpu: Device | None) -> Answer:
    """Return the requests that the blocks hold which the row logged, or that are as many tokens as it logged."""
    blocks, tokens = _measured(row, "kv_blocks"), _measured(row, "kv_tokens")
    count = blocks if blocks is not None else (tokens or 0) // USUAL_BLOCK
    deployed = deploy(found, replace(job, num_gpu_blocks_override=max(1, int(count))), _ranks(job, gpu))
    if blocks is None and _answer(deployed, "kv_tokens").n_bytes != tokens:
        raise refuse("max_concurrency", "the row logs neither GiB nor blocks for keys and values to start from")
    return _answer(deployed, "max_concurrency")
