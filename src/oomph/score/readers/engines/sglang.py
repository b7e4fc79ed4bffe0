"""Rows of SGLang's start-up log: what its pools become of the memory that it found before and after loading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from oomph.answer import Subject
from oomph.engines.checks import DTYPES
from oomph.engines.sglang.job import SglangJob
from oomph.engines.sglang.pools import Cells, Pools, cells, page_size, pools
from oomph.engines.sglang.weights import loaded
from oomph.errors import OomphError
from oomph.score.asking import catalogued
from oomph.score.readers.engines.common import UNQUANTISED
from oomph.score.reading import Answer, Ask, Question, notes, number, refuse, shown, whole, words
from oomph.units import GIB

# Quantised copies of models, and rows that name a model by its shape: what they keep of a token is the same.
COPIES = {
    "DeepSeek-R1-0528-w4a8-per-channel": "deepseek-ai/DeepSeek-R1",
    "Howeee/DeepSeek-R1-0528-w8a8": "deepseek-ai/DeepSeek-R1",
    "DeepSeek-V3.2-Exp-W8A8": "deepseek-ai/DeepSeek-V3.2-Exp",
    "Qwen3-Coder-480B-A35B-Instruct-w8a8-QuaRot": "Qwen/Qwen3-Coder-480B-A35B-Instruct",
    "aleoyang/Qwen3-32B-w8a8-MindIE": "Qwen/Qwen3-32B",
    "vllm-ascend/Qwen3-Next-80B-A3B-Instruct-W8A8": "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "Qwen/Qwen3-235B-A22B-FP8": "Qwen/Qwen3-235B-A22B",
    "DeepSeek on GB200 (blog notes)": "deepseek-ai/DeepSeek-V3",
}
KV_DTYPES = {None: "auto", "auto": "auto", "auto(bf16)": "bf16", "bfloat16": "bf16", "fp8_e4m3": "fp8_e4m3"}
# Of rows that say no version, and whose lines have no "elapsed=" in them: 0.5.8 prints none either, but 0.5.6 is the
# last that adds a draft's tokens on top. Which it was is not known; it moves the tokens of these rows by 1 % at most.
HEADROOM_LAST = "0.5.6"
NPU, NPU_INDEX_BYTES = "Ascend", 2  # keeps an indexer's keys in 16 bits, and counts them as fp8 (0.5.6: memory_pool.py)
HALF = GIB // 200  # what a figure of two decimals is uncertain by
DRAFT = ("num_steps", "eagle_topk", "num_draft_tokens")
FIGURES = ("mem_before_load_gib", "weights_gib")


def subject(row: Mapping[str, Any]) -> Subject:
    """Return the model by the name a row gives it."""
    name = words(row, "model")
    return catalogued(COPIES.get(name, name))


def question(row: Mapping[str, Any], found: Subject) -> Question:
    """Return how the lines of a row are estimated."""
    job, assumed = _job(row)
    npu = NPU in str(row.get("gpu"))
    if npu and "linear_attention" in found.model.by_kind:
        raise refuse("a hybrid on an NPU", "that build makes room in all layers, and for states of a number not said")
    try:
        cell = cells(found, job)
    except OomphError as error:
        raise refuse("its pools", error.problem.rstrip(".")) from None
    made, how = _pools(row, job, cell)
    stored = _stored(cell, found, npu)
    asks: dict[str, Ask] = {
        "kv_tokens": lambda: Answer(made().tokens, _least(row, job, cell, made()).tokens),
        "kv_cache_gib": lambda: _sure(_kv_bytes(row, job, cell, stored)),
        "draft_kv_gib": lambda: _sure(made().draft_bytes_of(made().tokens) + _more_index(cell, stored, made())),
        "avail_after_pool_gib": lambda: _after(row, job, cell, stored),
        "weights_gib": lambda: _weights(row, job, found),
        "draft_weights_gib": lambda: _no("draft_weights_gib", "how that build lays out quantised weights is not known"),
        "cuda_graph_gib": lambda: _no("cuda_graph_gib", "the memory of CUDA graphs is not modelled"),
        "mem_before_load_gib": lambda: _no("mem_before_load_gib", "taken as given: what the pools are made from"),
    }
    name = words(row, "model")
    copy = (f"the cache of {COPIES[name]}",) if name in COPIES else ()
    return Question(asks, (*copy, how, *assumed))


def _job(row: Mapping[str, Any]) -> tuple[SglangJob, tuple[str, ...]]:
    """Return what a row was launched with, and what had to be assumed."""
    assumed: tuple[str, ...] = ()
    drafted = row.get("spec") not in (None, "None")
    version = row.get("engine_version")
    if version is None and "Load weight end" in str(row.get("quote")) and "elapsed=" not in str(row.get("quote")):
        version = HEADROOM_LAST
        assumed += (f"version not said: rules of {HEADROOM_LAST}, as its lines have no time in them",)
    if drafted and row.get("max_num_seqs") is None:
        assumed += (
            "requests of one step not said: 48 with a draft of 3 steps and 4 tokens, what SGLang takes by itself",
        )
    if row.get("kv_dtype") not in KV_DTYPES:
        raise refuse(f"kv_dtype {shown(row.get('kv_dtype'))}", "not a dtype of a cache that oomph knows")
    try:
        job = SglangJob(
            version=str(version or ""),
            tensor_parallel=whole(row, "tp", 2**16),
            pipeline_parallel=whole(row, "pp", 2**16),
            data_parallel=whole(row, "dp", 2**16),
            dp_attention=bool(row.get("dp_attention")),
            page_size=whole(row, "page_size", 2**16) if row.get("page_size") is not None else None,
            kv_cache_dtype=KV_DTYPES[row.get("kv_dtype")],
            mem_fraction_static=number(row.get("mem_fraction_static")),
            max_running_requests=whole(row, "max_num_seqs") if row.get("max_num_seqs") is not None else None,
            speculative_algorithm="EAGLE" if drafted else None,
        )
        drafts: Any = {
            f"speculative_{name}": whole(row, f"spec_{name}", 2**10) for name in DRAFT if f"spec_{name}" in row
        }
        job = replace(job, **drafts)
    except OomphError as error:
        raise refuse("its flags", error.problem.rstrip(".")) from None
    if row.get("attn_tp") not in (None, job.attention_parallel):
        raise refuse(f"attn_tp={shown(row['attn_tp'])}", f"its flags make {job.attention_parallel} of it")
    return job, assumed


def _pools(row: Mapping[str, Any], job: SglangJob, cell: Cells) -> tuple[Any, str]:
    """Return the pools, to be called, and how they are found."""
    budget = _budget(row, job)
    if budget is not None:
        return lambda: pools(budget, cell, job, _drafts(job)), "from the memory before and after loading"
    said = _measured(row, "kv_cache_gib")
    if said is None:
        return lambda: _no("kv_tokens", "neither memory nor a share of it is said"), ""
    bare = SglangJob(page_size=job.page_size)
    left = int(said * GIB) - page_size(job, cell) * cell.full
    return lambda: pools(left, cell, bare), "from the GiB of the same line: memory is not said"


def _budget(row: Mapping[str, Any], job: SglangJob) -> int | None:
    """Return the bytes of the pools: what was free after loading, less a share of what was free before."""
    before, weights = (_measured(row, name) for name in FIGURES)
    if before is None or weights is None or job.mem_fraction_static is None:
        return None
    return int((before * job.mem_fraction_static - weights) * GIB)


def _measured(row: Mapping[str, Any], name: str) -> float | None:
    measured = row.get("measured")
    found = number(measured.get(name)) if isinstance(measured, Mapping) else None
    return found if found is not None and 0 < found < 2**20 else None


def _drafts(job: SglangJob) -> int:
    return 1 if job.drafted[0] else 0


def _least(row: Mapping[str, Any], job: SglangJob, cell: Cells, made: Pools) -> Pools:
    """Return the pools where every figure of two decimals is as much too high as it can be."""
    budget = _budget(row, job)
    if budget is None:
        return pools(max(0, int(made.tokens * made.cell) - HALF), cell, SglangJob(page_size=job.page_size))
    return pools(max(0, budget - HALF * (1 + len(FIGURES))), cell, job, _drafts(job))


def _stored(cell: Cells, found: Subject, npu: bool) -> int:
    """Return the bytes of a token as they are allocated: on an NPU an indexer's keys are wider than is counted."""
    if not npu or not cell.picked:
        return cell.full
    from oomph.caches import layer_caches

    keys = sum(
        len(each.layers) * getattr(kept, "index_dim", 0) for each in layer_caches(found.model) for kept in each.cached
    )
    return cell.full - cell.picked + keys * NPU_INDEX_BYTES


def _more_index(cell: Cells, stored: int, made: Pools) -> int:
    return (stored - cell.full) // max(1, cell.layers) * made.tokens


def _kv_bytes(row: Mapping[str, Any], job: SglangJob, cell: Cells, stored: int) -> int:
    page, budget = page_size(job, cell), _budget(row, job)
    if budget is not None:
        return (pools(budget, cell, job, _drafts(job)).tokens + page) * stored
    tokens = _measured(row, "kv_tokens")
    if tokens is None:
        raise refuse("kv_cache_gib", "neither memory nor tokens are said")
    return (int(tokens) + page) * stored


def _after(row: Mapping[str, Any], job: SglangJob, cell: Cells, stored: int) -> Answer:
    before, weights = (_measured(row, name) for name in FIGURES)
    if before is None or weights is None or _budget(row, job) is None:
        raise refuse("avail_after_pool_gib", "memory and the share of it are not said")
    return _sure(int((before - weights) * GIB) - _kv_bytes(row, job, cell, stored))


def _weights(row: Mapping[str, Any], job: SglangJob, found: Subject) -> Answer:
    if job.ranks > 1 or NPU in str(row.get("gpu")) or "build" in notes(row):
        raise refuse("weights_gib", "what a device has less after loading, of a layout that is not known")
    if row.get("quant") is not None and row.get("quant") not in UNQUANTISED:
        raise refuse(f"quant {shown(row.get('quant'))}", "which format that is, is not said exactly")
    if row.get("dtype") is not None and row.get("dtype") not in DTYPES:
        raise refuse(f"dtype {shown(row.get('dtype'))}", "not a dtype of weights that oomph knows")
    held = loaded(found, job)
    return Answer(held.n_bytes, held.n_bytes + held.rounding_bytes)


def _sure(n_bytes: int) -> Answer:
    return Answer(n_bytes, n_bytes)


def _no(what: str, why: str) -> Any:
    raise refuse(what, why)
