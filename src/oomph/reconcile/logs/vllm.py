"""vLLM's start-up log, of V0 and V1 (worker/gpu_worker.py, gpu_model_runner.py, core/kv_cache_utils.py)."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from oomph.reconcile.found import Figure, Line, Report
from oomph.reconcile.logs import Log, Patterns, matched

_N = r"(-?[0-9][0-9.,]{0,20})"
PATTERNS: Patterns = (
    ("weights_gib", re.compile(rf"Model loading took {_N} Gi?B")),
    ("weights_gib", re.compile(rf"Loading model weights took {_N} GB")),
    ("weights_gib", re.compile(rf"model weights take {_N}GiB")),
    ("non_torch_gib", re.compile(rf"non_torch_memory takes {_N}GiB")),
    ("activation_peak_gib", re.compile(rf"PyTorch activation peak memory takes {_N}GiB")),
    ("kv_cache_gib", re.compile(rf"reserved for KV Cache is {_N}GiB")),
    ("activation_peak_gib", re.compile(rf"{_N} GiB for peak activation")),
    ("non_torch_gib", re.compile(rf"{_N} GiB for non-torch memory")),
    ("kv_cache_gib", re.compile(rf"Available KV cache memory: {_N} GiB")),
    ("kv_tokens", re.compile(rf"GPU KV cache size: {_N} tokens")),
    ("kv_blocks", re.compile(rf"# (?:GPU|cuda) blocks: {_N}")),
    ("max_concurrency", re.compile(rf"Maximum concurrency for [0-9,]{{1,16}} tokens per request: {_N}x")),
    ("cuda_graph_gib", re.compile(rf"Graph capturing finished in [0-9.]{{1,9}} secs?, took {_N} GiB")),
    ("total_gib", re.compile(rf"total_gpu_memory \({_N}GiB\)")),
    ("init_free_gib", re.compile(rf"Initial free memory:? {_N} GiB")),
    ("requested_gib", re.compile(rf"Requested memory: [0-9.]{{1,9}} \(util\), {_N} GiB")),
)
_BUDGET = re.compile(r"Requested memory: ([01]\.[0-9]{1,9}) \(util\), ([0-9]{1,5}\.[0-9]{1,9}) GiB")
_RANK = re.compile(r"\((?:Worker|VllmWorker|EngineCore)[A-Za-z_]{0,12} ?(?:rank=)?([A-Z0-9_]{0,16})[ )]")
_VERSION = re.compile(r"(?:vLLM API server version|LLM engine \(v|version) ?([0-9]{1,3}(?:\.[0-9]{1,4}){1,3})")
_ARGS = re.compile(r"non-default args: (\{.{1,12000}\})")
_CONFIG = re.compile(r"with config: (?:model|VllmConfig)")
_MODEL = re.compile(r"model='([^']{1,300})'")
_CONFIG_FLAGS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("--max-model-len", re.compile(r"max_seq_len=([0-9]{1,9})\b")),
    ("--tensor-parallel-size", re.compile(r"tensor_parallel_size=([0-9]{1,4})\b")),
    ("--pipeline-parallel-size", re.compile(r"pipeline_parallel_size=([0-9]{1,4})\b")),
    ("--kv-cache-dtype", re.compile(r"kv_cache_dtype=([a-z0-9_]{1,20})\b")),
    ("--quantization", re.compile(r"quantization=(?!None)([a-z0-9_-]{1,40})\b")),
)
NOT_FLAGS = frozenset({"model", "model_tag", "api_key"})


def read(lines: Sequence[Line]) -> Report:
    """Return the figures, and the `vllm serve` command that the log's settings amount to."""
    found: list[Figure] = []
    for line in lines:
        rank = _RANK.search(line.text)
        found += matched(line, PATTERNS, rank[1] if rank else "")
    found += _total(lines)
    version = next((match[1] for line in lines if (match := _VERSION.search(line.text))), "")
    facts = {"version": version} if version else {}
    return Report("vllm", tuple(found), _command(lines), facts)


def _total(lines: Sequence[Line]) -> Iterator[Figure]:
    """Yield the GPU's memory, as the budget is a share of it."""
    for line in lines:
        match = _BUDGET.search(line.text)
        if match and float(match[1]) > 0:
            yield Figure("total_gib", round(float(match[2]) / float(match[1]), 2), line)


def _command(lines: Sequence[Line]) -> tuple[str, ...]:
    """Return the command of the last start in the log, () where it names no model."""
    for line in reversed(lines):
        match = _ARGS.search(line.text)
        args = _literal(match[1]) if match else None
        if args is not None:
            model = args.get("model_tag") or args.get("model")
            if isinstance(model, str):
                return ("vllm", "serve", model, *_flags(args))
    for line in reversed(lines):
        model_match = _MODEL.search(line.text) if _CONFIG.search(line.text) else None
        if model_match:
            pairs = [(flag, match[1]) for flag, pattern in _CONFIG_FLAGS if (match := pattern.search(line.text))]
            said = [word for flag, value in pairs if value not in ("1", "auto") for word in (flag, value)]
            return ("vllm", "serve", model_match[1], *said)
    return ()


def _literal(text: str) -> Mapping[str, Any] | None:
    """Return a printed dict of plain values; None where it is something else."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else None


def _flags(args: Mapping[str, Any]) -> Iterator[str]:
    """Yield settings as words of a command line."""
    for key, value in args.items():
        name = key.replace("_", "-")
        if key in NOT_FLAGS or value is None or not re.fullmatch(r"[a-z][a-z0-9-]{0,60}", name):
            continue
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        elif isinstance(value, (int, float, str)):
            yield f"--{name}={value}"
        elif isinstance(value, (dict, list)):
            yield f"--{name}={json.dumps(value, default=str)}"


LOG = Log(
    "vllm",
    (
        "Model loading took", "Loading model weights took", "model weights take", "KV cache", "# GPU blocks",
        "# cuda blocks", "Maximum concurrency", "Graph capturing finished", "non-default args", "LLM engine (v",
        "vLLM API server version", "for peak activation", "total_gpu_memory", "Initial free memory",
    ),
    read,
)  # fmt: skip
