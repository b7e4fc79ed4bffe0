"""TensorRT-LLM's lines on memory: the engine, its execution context, the paged cache."""

from __future__ import annotations

import re
from collections.abc import Sequence

from oomph.reconcile.found import Figure, Line, Report
from oomph.reconcile.logs import Log
from oomph.reconcile.text import number

_N = r"([0-9]{1,9}(?:\.[0-9]{1,4})?)"
PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("engine_mib", re.compile(rf"Loaded engine size: {_N} MiB")),
    ("execution_context_mib", re.compile(rf"Allocated {_N} MiB for execution context memory")),
    ("kv_cache_gib", re.compile(rf"Allocated {_N} GiB for max tokens in paged KV cache")),
    ("kv_tokens", re.compile(r"for max tokens in paged KV cache \(([0-9]{1,12})\)")),
)


def read(lines: Sequence[Line]) -> Report:
    """Return the figures."""
    found = [
        Figure(name, number(match[1]), line)
        for line in lines
        for name, pattern in PATTERNS
        if (match := pattern.search(line.text))
    ]
    return Report("tensorrt-llm", tuple(found))


LOG = Log("tensorrt-llm", ("Loaded engine size", "for execution context memory", "in paged KV cache"), read)
