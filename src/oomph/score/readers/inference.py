"""Published rows of serving engines: weights of vLLM, peaks of transformers' generate().

An engine's pools, graphs and buffers are refused by name until the engine is modelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.answer import Subject
from oomph.job import InferJob
from oomph.score.asking import Case, catalogued, device, weights
from oomph.score.reading import Answer, Ask, Question, Schema, notes, refuse, shown, whole, words

UNQUANTISED = ("none", "bf16/fp16 (none)", "BF16", "bf16", "FP16", "fp16")
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
PUBLISHED = ("auto", "auto(bf16)")
# How engines call what a config's quantization_config calls otherwise.
METHODS = {"awq_marlin": "awq", "gptq_marlin": "gptq", "fp8": "fp8", "mxfp4": "mxfp4", "awq": "awq", "gptq": "gptq"}
METHODS |= {"compressed-tensors": "compressed-tensors"}
# Made while loading: vLLM's quantization/fp8.py keeps one scale per tensor where the checkpoint is not fp8.
WHILE_LOADING = {("vllm", "fp8"): "fp8-tensor"}
SPREAD = ("tp", "pp", "dp", "attn_tp", "n_gpus")
STEADY = "steady-state"
INSIDE = {  # what engines count as weights beside the model's own
    "LoRA": "slots for adapters are counted in it",
    "speculative decoding": "weights of the draft are counted in it",
    "NPU build": "how that build lays out quantised weights is not known",
}


def _group(row: Mapping[str, Any]) -> str:
    return shown(row.get("engine"))


def _question(row: Mapping[str, Any]) -> Question:
    for key in SPREAD:
        if row.get(key) not in (None, 1):
            raise refuse(f"{key}={shown(row[key])}", "one GPU only")
    engine = words(row, "engine")
    found = catalogued(words(row, "model"))
    if engine == "transformers":
        return _generate(row, found)
    if engine == "sglang":
        raise refuse("engine sglang", "prints what the device has less after loading, which is more than the weights")
    if engine != "vllm":
        raise refuse(f"engine {shown(engine)}", "where it puts which layers is not modelled yet")
    for word, why in INSIDE.items():
        if word in notes(row):
            raise refuse(f"weights with {word}", why)
    name, assumed = _format(row, engine, found)
    return Question({"weights_gib": lambda: weights(found, name)}, assumed)


def _format(row: Mapping[str, Any], engine: str, found: Subject) -> tuple[str | None, tuple[str, ...]]:
    """Return the format of the weights (None: as published), and what had to be assumed."""
    quant = row.get("quant")
    asked = (found.source.config or {}).get("quantization_config")
    method = asked.get("quant_method") if isinstance(asked, Mapping) else None
    if quant is None or quant in UNQUANTISED:
        if method is not None and quant is not None:
            raise refuse(f"quant {shown(quant)}", f"the model is published in {shown(method)}")
        return _plain(row)
    if not isinstance(quant, str):
        raise refuse("quant", f"{shown(quant)} is not text")
    if method is not None and METHODS.get(quant) == method:
        return None, ()
    if (engine, quant) in WHILE_LOADING and method is None:
        return WHILE_LOADING[engine, quant], ("fp8 made while loading, one scale per tensor: vLLM's way",)
    raise refuse(f"quant {shown(quant)}", "which format that is, is not said exactly")


def _plain(row: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    dtype = row.get("dtype")
    if dtype is None or dtype in PUBLISHED:
        return None, ("dtype not said: as published, the engine's default",)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refuse(f"dtype {shown(dtype)}", "not a dtype of weights that oomph knows")
    return DTYPES[dtype], ()


def _generate(row: Mapping[str, Any], found: Subject) -> Question:
    """Return how the peaks of transformers' speed benchmark are estimated: prefill, then tokens one by one."""
    reading, writing = jobs_of(row)
    gpu = device(row.get("gpu"))
    prefill, last = Case(found, reading, gpu), Case(found, writing, gpu)
    version = f"transformers {words(row, 'engine_version')}, estimated by the rules of the one oomph follows"
    if STEADY in notes(row):
        return Question({"peak_gib": last.resident}, (version, "what stands at the end, as its notes say"))
    asks: dict[str, Ask] = {"peak_gib": lambda: _highest(prefill, last)}
    return Question(asks, (version, "the higher of the prefill and the last token"))


def jobs_of(row: Mapping[str, Any]) -> tuple[InferJob, InferJob]:
    """Return the prefill and a job that ends where the last token was written; raises UnsupportedError."""
    if row.get("quant") not in UNQUANTISED:
        raise refuse(f"quant {shown(row.get('quant'))}", "jobs of quantised models are not modelled yet")
    if words(row, "engine_version").startswith("4.38."):
        raise refuse("transformers 4.38", "prefill makes fp32 logits of every token, which no job says")
    read, total, batch = whole(row, "input_len"), whole(row, "total_len"), whole(row, "batch_size")
    if read == 1 and "stop early" in notes(row):
        raise refuse("total_len", "its notes say that rows of one token may have stopped early")
    cached = total - 1  # the last token is written, but not read again
    if cached <= read:
        raise refuse("total_len", "not two tokens more than input_len")
    return InferJob(batch, read), InferJob(batch, cached - 1, decode=1)


def _highest(prefill: Case, last: Case) -> Answer:
    """Return the peak of reading or of the last token written, whichever is higher; tokens between take less."""
    first, after = prefill.figure("allocated"), last.figure("allocated")
    beside = after.n_bytes - max(one.peak_bytes for one in last.ledger.instants)
    end = max(one.peak_bytes for one in last.ledger.instants if one.name.startswith("decode")) + beside
    return Answer(max(first.n_bytes, end), max(first.safe_bytes, end + after.safe_bytes - after.n_bytes))


SCHEMA = Schema("inference", ("engine", "model", "measured"), _group, _question, failures=("oom_sampler_warmup",))
