"""What torch says when it runs out of memory, as torch 1.x and 2.x word it (c10/cuda/CUDACachingAllocator.cpp)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from oomph.reconcile.found import Figure, Line, Report
from oomph.reconcile.logs import Log, Patterns
from oomph.units import GIB, parse_size

_SIZE = r"([0-9.]{1,12} (?:bytes|KiB|MiB|GiB))"
_GPU = re.compile(r"GPU ([0-9]{1,4})\b")
# A line may have several.
PATTERNS: Patterns = (
    ("asked_gib", re.compile(rf"Tried to allocate {_SIZE}")),
    ("total_gib", re.compile(rf"has a total capacity of {_SIZE}")),
    ("total_gib", re.compile(rf"{_SIZE} total capacity")),
    ("free_gib", re.compile(rf"of which {_SIZE} is free")),
    ("free_gib", re.compile(rf"{_SIZE} free[;)]")),
    ("process_gib", re.compile(rf"this process has {_SIZE} memory in use")),
    ("allocated_gib", re.compile(rf"Of the allocated memory {_SIZE} is allocated by PyTorch")),
    ("allocated_gib", re.compile(rf"{_SIZE} already allocated")),
    ("graph_pools_gib", re.compile(rf"with {_SIZE} allocated in private pools")),
    ("cached_gib", re.compile(rf"{_SIZE} is reserved by PyTorch but unallocated")),
    ("reserved_gib", re.compile(rf"{_SIZE} reserved in total by PyTorch")),
    ("limit_gib", re.compile(rf"{_SIZE} allowed")),
)
_OTHER = re.compile(rf"Process ([0-9]{{1,10}}) has {_SIZE} memory in use")
_ROUNDING = 0.01  # GiB: the message has two digits


def read(lines: Sequence[Line]) -> Report:
    """Return the figures of every such message."""
    found: list[Figure] = []
    for line in lines:
        gpu = _GPU.search(line.text)
        device = f"GPU {gpu[1]}" if gpu else ""
        seen = {name: _gib(match[1]) for name, pattern in PATTERNS if (match := pattern.search(line.text))}
        if "reserved_gib" not in seen and {"allocated_gib", "cached_gib"} <= seen.keys():
            seen["reserved_gib"] = seen["allocated_gib"] + seen["cached_gib"]
        seen.update(_processes(seen, [_gib(match[2]) for match in _OTHER.finditer(line.text)]))
        found += [Figure(name, value, line, device) for name, value in seen.items()]
    return Report("torch", tuple(found))


def _processes(seen: dict[str, float], listed: list[float]) -> dict[str, float]:
    """Return what this process and the others hold, as far as the processes that were listed tell.

    In a container torch does not know its own number outside of it and lists itself as one of the others: then those
    hold together with its cache more than is in use, and it is the one that holds at least its cache.
    """
    if not listed:
        return {}
    total, free, reserved = (seen.get(name) for name in ("total_gib", "free_gib", "reserved_gib"))
    if "process_gib" in seen or total is None or free is None or reserved is None:
        return {"others_gib": sum(listed)}
    if sum(listed) + reserved <= total - free + _ROUNDING * (len(listed) + 1):
        return {"others_gib": sum(listed)}
    own = [size for size in listed if size >= reserved - _ROUNDING]
    if len(own) != 1:
        return {}
    others = sum(listed) - own[0]
    return {"process_gib": own[0], **({"others_gib": others} if others else {})}


def _gib(text: str) -> float:
    number, unit = text.split()
    if number.count(".") > 1 or number.strip(".") == "":
        return 0.0
    size = f"{number.strip('.')} B" if unit == "bytes" else f"{number.strip('.')} {unit}"
    return parse_size(size) / GIB


LOG = Log("torch", ("Tried to allocate",), read)
