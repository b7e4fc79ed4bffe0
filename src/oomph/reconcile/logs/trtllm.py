"""TensorRT-LLM's lines on memory: the engine, its execution context, the paged cache."""

from __future__ import annotations

import re
from collections.abc import Sequence

from oomph.reconcile.found import Line, Report
from oomph.reconcile.logs import Log, Patterns, matched

_N = r"([0-9]{1,9}(?:\.[0-9]{1,4})?)"
PATTERNS: Patterns = (
    ("engine_mib", re.compile(rf"Loaded engine size: {_N} MiB")),
    ("execution_context_mib", re.compile(rf"Allocated {_N} MiB for execution context memory")),
    ("kv_cache_gib", re.compile(rf"Allocated {_N} GiB for max tokens in paged KV cache")),
    ("kv_tokens", re.compile(r"for max tokens in paged KV cache \(([0-9]{1,12})\)")),
)


def read(lines: Sequence[Line]) -> Report:
    """Return the figures."""
    found = [figure for line in lines for figure in matched(line, PATTERNS)]
    return Report("tensorrt-llm", tuple(found))


LOG = Log("tensorrt-llm", ("Loaded engine size", "for execution context memory", "in paged KV cache"), read)
