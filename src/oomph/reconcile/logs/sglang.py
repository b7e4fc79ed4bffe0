"""SGLang's start-up log (srt/model_executor/model_runner.py, srt/mem_cache). It prints GiB and calls them GB."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from oomph.reconcile.found import Figure, Line, Report
from oomph.reconcile.logs import Log
from oomph.reconcile.text import number

_N = r"([0-9][0-9.,]{0,20})"
_BEGIN, _END, _GRAPH, _POOL = "Load weight begin", "Load weight end", "Capture cuda graph end", "Memory pool end"
_AVAILABLE = re.compile(rf"avail mem={_N} GB")
_USED = re.compile(rf"mem usage={_N} GB")
_TOKENS = re.compile(r"#tokens: ([0-9]{1,12})")
_SIZES = tuple(re.compile(rf"\b{which} size: {_N} GB") for which in ("K", "V", "KV"))
_MOST = re.compile(r"max_total_num_tokens=([0-9]{1,12})")
_RANK = re.compile(r"\b([DTPE]P[0-9]{1,4}(?: [DTPE]P[0-9]{1,4}){0,3})\]")
_ARGS = "server_args=ServerArgs("
# Settings that are printed among all the others and say something about memory.
FLAGS = (
    "context_length", "mem_fraction_static", "max_running_requests", "max_total_tokens", "chunked_prefill_size",
    "tp_size",
    "dp_size", "ep_size", "pp_size", "kv_cache_dtype", "page_size", "quantization", "dtype", "cuda_graph_max_bs",
    "speculative_algorithm", "speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens",
    "swa_full_tokens_ratio", "mamba_full_memory_ratio",
)  # fmt: skip
SWITCHES = ("enable_dp_attention", "disable_radix_cache", "disable_cuda_graph")
_MODEL = re.compile(r"model_path='([^']{1,300})'")


def read(lines: Sequence[Line]) -> Report:
    """Return the figures, and the command that the printed arguments amount to."""
    found: list[Figure] = []
    for line in lines:
        rank = _RANK.search(line.text)
        device = rank[1] if rank else ""
        found += [Figure(name, value, line, device) for name, value in _figures(line.text)]
    return Report("sglang", tuple(found), _command(lines))


def _figures(text: str) -> Iterator[tuple[str, float]]:
    available, used = _AVAILABLE.search(text), _USED.search(text)
    if _BEGIN in text and available:
        yield "mem_before_load_gib", number(available[1].rstrip(".,"))
    if _END in text and used:
        yield "weights_gib", number(used[1].rstrip(".,"))
    if _GRAPH in text and used:
        yield "cuda_graph_gib", number(used[1].rstrip(".,"))
    if _POOL in text and available:
        yield "avail_after_pool_gib", number(available[1].rstrip(".,"))
    tokens = _TOKENS.search(text)
    if "KV Cache is allocated" in text and tokens:
        yield "kv_tokens", number(tokens[1])
        sizes = [number(match[1].rstrip(".,")) for pattern in _SIZES if (match := pattern.search(text))]
        if sizes:
            yield "kv_cache_gib", sum(sizes)
    most = _MOST.search(text)
    if most:
        yield "kv_tokens", number(most[1])


def _command(lines: Sequence[Line]) -> tuple[str, ...]:
    for line in reversed(lines):
        model = _MODEL.search(line.text) if _ARGS in line.text else None
        if model is not None:
            words = ("python", "-m", "sglang.launch_server", "--model-path", model[1])
            return (*words, *_flags(line.text))
    return ()


def _flags(text: str) -> Iterator[str]:
    for key in FLAGS:
        match = re.search(rf"\b{key}='?([A-Za-z0-9_.-]{{1,60}})", text)
        if match and match[1] not in ("None", "auto") and not (key.endswith("_size") and match[1] == "1"):
            yield f"--{key.replace('_', '-')}={match[1]}"
    for key in SWITCHES:
        if f"{key}=True" in text:
            yield f"--{key.replace('_', '-')}"


LOG = Log("sglang", (_BEGIN, _END, _GRAPH, _POOL, "KV Cache is allocated", "max_total_num_tokens=", _ARGS), read)
