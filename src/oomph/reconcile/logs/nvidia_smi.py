"""nvidia-smi: its table, and `--query-gpu=...memory.used,memory.total --format=csv`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from oomph.reconcile.found import Figure, Line, Report
from oomph.reconcile.logs import Log
from oomph.units import GIB, MIB

_USED = re.compile(r"([0-9]{1,8})MiB / {1,8}([0-9]{1,8})MiB")
_CSV = re.compile(
    r"(?:^|, )([0-9]{1,8}) MiB, {1,4}([0-9]{1,8}) MiB {0,4}(?:$|,)"
)  # llama.cpp lists devices in brackets
_GPU = re.compile(r"^\| {1,4}([0-9]{1,4}) {1,3}(?:N/A|[A-Z0-9])[A-Za-z0-9/ ._()-]{1,60}")
NAME, DIGITS = 40, 8  # characters of a process' name that are kept, and of a number
KINDS = frozenset({"C", "G", "C+G", "M+C"})  # what a process does on a GPU: compute, graphics


def read(lines: Sequence[Line]) -> Report:
    """Return used and total memory of every GPU, and that of every process."""
    found: list[Figure] = []
    gpu = ""
    seen = 0
    for line in lines:
        process = _process(line)
        if process is not None:
            found.append(process)
            continue
        named = _GPU.search(line.text)
        gpu = f"GPU {named[1]}" if named else gpu
        used = _USED.search(line.text) or _CSV.search(line.text)
        if used:
            device = gpu or f"GPU {seen}"
            first, second = (int(used[at]) * MIB / GIB for at in (1, 2))
            low, high = sorted((first, second))  # a query may name total first
            found += [Figure("used_gib", low, line, device), Figure("total_gib", high, line, device)]
            seen, gpu = seen + 1, ""
    return Report("nvidia-smi", tuple(found))


def _process(line: Line) -> Figure | None:
    """Return the memory of a process: | GPU, two instances, its number, its kind, its name, so many MiB |."""
    words = line.text.strip("| ").split()
    at = next((at for at, word in enumerate(words) if word in KINDS), 0)
    size = words[-1].removesuffix("MiB") if words else ""
    if not at or at + 2 >= len(words) or size == words[-1] or not size.isdecimal() or not words[0].isdecimal():
        return None
    name = " ".join(words[at + 1 : -1])[-NAME:]
    return Figure("process_gib", int(size[:DIGITS]) * MIB / GIB, line, f"GPU {words[0][:DIGITS]} {name}")


LOG = Log("nvidia-smi", ("MiB /", " MiB, ", "MiB |", "| N/A", "|   "), read)
