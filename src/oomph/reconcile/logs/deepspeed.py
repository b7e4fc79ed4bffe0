"""DeepSpeed's see_memory_usage (runtime/utils.py): allocated, cached, and the highest of both. Its GB are GiB."""

from __future__ import annotations

import re
from collections.abc import Sequence

from oomph.reconcile.found import Figure, Line, Report
from oomph.reconcile.logs import Log

_LINE = re.compile(
    r"\bMA ([0-9.]{1,10}) GB {1,12}Max_MA ([0-9.]{1,10}) GB {1,12}CA ([0-9.]{1,10}) GB {1,12}Max_CA ([0-9.]{1,10}) GB"
)
NAMES = ("allocated_gib", "max_allocated_gib", "reserved_gib", "max_reserved_gib")


def read(lines: Sequence[Line]) -> Report:
    """Return the four figures of each such line."""
    found: list[Figure] = []
    for line in lines:
        match = _LINE.search(line.text)
        if match and all(value.count(".") <= 1 and value != "." for value in match.groups()):
            found += [Figure(name, float(value), line) for name, value in zip(NAMES, match.groups(), strict=True)]
    return Report("deepspeed", tuple(found))


LOG = Log("deepspeed", ("Max_MA ",), read)
