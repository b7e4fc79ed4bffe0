"""Rows of transformers' generate(): QwenLM's speed benchmark, and the tutorial on OctoCoder.

The benchmark prints torch.cuda.max_memory_allocated, summed over GPUs, since its process began: the highest of the
model loaded, the prompt read, the last token written. Its third table (transformers 4.51) shows less than a prompt
takes: what stands at the end, or, without flash-attn, where the last token attends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from oomph.answer import Subject
from oomph.constants import rule
from oomph.devices import Device
from oomph.job import InferJob
from oomph.score.asking import Case, configured, device
from oomph.score.reading import Answer, Ask, Question, notes, refuse, shown, whole, words

STEADY = "steady-state"
EXPERTS_APART = ("qwen3_moe",)  # whose experts transformers 4 built as linear maps, which FP8 knows
AWQ_ROWS = ("AWQ", "AWQ-INT4")
SHORT_PROMPT = 64  # tokens, where a row only says that the prompt is short: with MQA a token takes kilobytes
MOST_GPUS = 64
FP16 = 2  # bytes


@dataclass(frozen=True)
class Stored:
    """How a row's weights are kept: inputs of a job, and what a reader must know of it."""

    inputs: Mapping[str, Any] = field(default_factory=dict)
    said: str = ""
    own_head: bool = False


AWQ = Stored({"precision": "fp16", "quantization": "awq"}, "AWQ in groups of 128, loaded in fp16")
STORED = {
    "BF16": Stored(),
    "bf16": Stored(),
    "GPTQ-Int4": Stored(
        {"precision": "fp16", "quantization": "gptq-4bit-g128", "gptq_kernel": "exllama"},
        "GPTQ in groups of 128 without act-order, loaded in fp16, with ExLlama's kernel",
    ),
    "GPTQ-Int8": Stored(
        {"precision": "fp16", "quantization": "gptq-8bit-g128", "gptq_kernel": "cuda-old"},
        "GPTQ in groups of 128 without act-order, loaded in fp16, with auto_gptq's CUDA kernel",
    ),
    "AWQ": AWQ,
    "AWQ-INT4": AWQ,
    "FP8": Stored(
        {"quantization": "fp8"}, "the FP8 files keep a head of their own beside the embedding", own_head=True
    ),
    "bnb-int8": Stored({"precision": "fp16", "quantization": "int8"}, "loaded in fp16, as load_in_8bit does"),
    "bnb-4bit": Stored(
        {"precision": "fp16", "quantization": "fp4", "compute_fp32": True},
        "FP4, loaded in fp16 and computed in fp32, as load_in_4bit alone does",
    ),
}


def question(row: Mapping[str, Any], found: Subject) -> Question:
    """Return how the peaks of transformers' speed benchmark are estimated: prefill, then tokens one by one."""
    gpus = 1 if row.get("n_gpus") is None else whole(row, "n_gpus", most=MOST_GPUS)
    stored = stored_by(row)
    if stored.own_head:
        found = with_own_head(found)
    reading, writing = jobs_of(row, found)
    gpu = device(row.get("gpu"))
    prefill, last = Case(found, reading, gpu), Case(found, writing, gpu)
    assumed = [f"transformers {version_of(row) or 'of an unknown version'}, by the rules of {reading.release}"]
    assumed += [stored.said] if stored.said else []
    if STEADY in notes(row):
        if row.get("input_len") == 1:
            assumed.append("all of the tokens asked for were written")
        if row.get("quant") in AWQ_ROWS:
            assumed.append(
                "the last token's peak: AutoAWQ's environment had no flash-attn, and no row shows a prompt's"
            )
            return Question({"peak_gib": lambda: _written(last)}, tuple(assumed))
        quantised = writing.quantization != "none"
        said = "what stands at the end, as its notes say, cut from the segment that 4.51 makes first"
        return Question({"peak_gib": lambda: last.warmed_up(quantised)}, (*assumed, said))
    assumed.append("the higher of the prefill and the last token")
    asks: list[Ask] = [lambda: _spread(prefill, gpus, gpu), lambda: _spread(last, gpus, gpu)]
    if row.get("quant") in AWQ_ROWS and found.model.tied:
        assumed.append(
            "or of loading: AutoAWQ's files hold the head, which stands beside the embedding until it is tied"
        )
        asks.append(Case(with_own_head(found), replace(reading, seq_len=1, release="5"), gpu).weights)
    if gpus > 1:
        assumed.append(f"the sum over {gpus} GPUs, each with the temporaries of a layer")
    return Question({"peak_gib": lambda: _highest(asks)}, tuple(assumed))


def version_of(row: Mapping[str, Any]) -> str:
    """Return the release of transformers, "" where a row does not say it."""
    return "" if row.get("engine_version") is None else words(row, "engine_version")


def stored_by(row: Mapping[str, Any]) -> Stored:
    """Return how a row's weights are kept; raises UnsupportedError."""
    quant = row.get("quant")
    if not isinstance(quant, str) or quant not in STORED:
        raise refuse(f"quant {shown(quant)}", "how such weights are kept is not known here")
    return STORED[quant]


def with_own_head(found: Subject) -> Subject:
    """Return the model with a head beside its embedding, whatever its config says."""
    config = found.source.config
    if config is None or not found.model.tied:
        return found
    return configured(found.source.name, {**config, "tie_word_embeddings": False})


def jobs_of(row: Mapping[str, Any], found: Subject) -> tuple[InferJob, InferJob]:
    """Return the prefill and a job that ends where the last token was written; raises UnsupportedError."""
    version = version_of(row)
    batch = whole(row, "batch_size")
    if row.get("input_len") is None and "short prompt" in notes(row):
        read, total = SHORT_PROMPT, SHORT_PROMPT + whole(row, "output_len")
    else:
        read, total = whole(row, "input_len"), whole(row, "total_len")
    cached = total - 1  # the last token is written, but not read again
    if cached <= read:
        raise refuse("total_len", "not two tokens more than input_len")
    inputs = dict(stored_by(row).inputs)
    if version.startswith("4.38."):
        inputs["release"] = "4.38"
    if str(row.get("quant")).startswith("bnb"):
        inputs["release"] = "4.51"  # whose bitsandbytes unpacks before it casts, as that of 2023 did
    if version.startswith("4.51."):
        if row.get("quant") in AWQ_ROWS:
            inputs["release"] = "4.51"
        if "gptq_kernel" in inputs:
            inputs["gptq_kernel"] = "gptqmodel"
        if row.get("quant") == "FP8" and found.model.model_type in EXPERTS_APART:
            inputs["experts"] = "modules"
    return InferJob(batch, read, **inputs), InferJob(batch, cached - 1, decode=1, **inputs)


def _written(last: Case) -> Answer:
    """Return the peak of the last token written."""
    after = last.figure("allocated")
    beside = after.n_bytes - max(one.peak_bytes for one in last.ledger.instants)
    end = max(one.peak_bytes for one in last.ledger.instants if one.name.startswith("decode")) + beside
    end = max(end, last.resident().n_bytes)
    return Answer(end, end + after.safe_bytes - after.n_bytes)


def _spread(case: Case, gpus: int, gpu: Device | None) -> Answer:
    """Return the peak of a job, of its last token if it writes one; over several GPUs the sum of their peaks.

    Each holds its layers with their cache, and at its last layer the temporaries that one GPU has only once. Beside
    them each has its own cuBLAS workspace, and ExLlama's room for an unpacked weight.
    """
    job = case.job
    one = _written(case) if isinstance(job, InferJob) and job.decode else case.figure("allocated")
    if gpus == 1:
        return one
    again = one.n_bytes - case.resident().n_bytes + rule("cublas_workspace", gpu).n_bytes
    if isinstance(job, InferJob) and job.gptq_kernel == "exllama":
        again += FP16 * max(prod(weight.shape) for weight in case.subject.model.weights if weight.places)
    more = (gpus - 1) * again
    return Answer(one.n_bytes + more, one.safe_bytes + more + (gpus - 1) * (one.safe_bytes - one.n_bytes))


def _highest(asks: list[Ask]) -> Answer:
    """Return the highest of several peaks."""
    answers = [ask() for ask in asks]
    return Answer(max(one.n_bytes for one in answers), max(one.safe_bytes for one in answers))
