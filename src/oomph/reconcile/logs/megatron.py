"""Megatron-LM's report after the first steps (training/utils.py, report_memory). Its MB are MiB."""

from __future__ import annotations

import re
from collections.abc import Sequence

from oomph.reconcile.found import Figure, Line, Report
from oomph.reconcile.logs import Log, Patterns, matched

_N = r"([0-9]{1,12}(?:\.[0-9]{1,17})?)"
PATTERNS: Patterns = (
    ("allocated_mib", re.compile(rf"\| (?:mem-)?allocated(?:-gigabytes)?: {_N}")),
    ("max_allocated_mib", re.compile(rf"\| max allocated: {_N}")),
    ("reserved_mib", re.compile(rf"\| reserved: {_N}")),
    ("max_reserved_mib", re.compile(rf"\| max reserved: {_N}")),
    ("theory_mib", re.compile(rf"Theoretical memory footprints: .{{0,200}}total={_N} MB")),
)
_RANK = re.compile(r"\[Rank ([0-9]{1,6})\]")


def read(lines: Sequence[Line]) -> Report:
    """Return the figures of every rank that reports."""
    found: list[Figure] = []
    for line in lines:
        rank = _RANK.search(line.text)
        device = f"rank {rank[1]}" if rank else ""
        found += matched(line, PATTERNS, device)
    return Report("megatron", tuple(found))


LOG = Log("megatron", ("memory (MB)", "Theoretical memory footprints"), read)
