"""One file per program whose logs are read: signs by which a line is known, and a reader of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import NamedTuple

from oomph.errors import SourceError
from oomph.reconcile.found import Figure, Line, Report
from oomph.reconcile.text import number

MOST_LINES = 20_000  # lines with signs that are kept of one program: a training run repeats its own for hours


class Log(NamedTuple):
    """A kind of log: the program, words of which a line has one if it is worth reading, and what reads such lines."""

    program: str
    signs: tuple[str, ...]
    read: Callable[[Sequence[Line]], Report]


Patterns = tuple[tuple[str, re.Pattern[str]], ...]  # what a figure is called, and the words around it


def matched(line: Line, patterns: Patterns, device: str = "") -> Iterator[Figure]:
    """Yield the figures of a line; each pattern's first group is the number."""
    for name, pattern in patterns:
        match = pattern.search(line.text)
        if match is not None:
            yield Figure(name, number(match[1].rstrip(".,")), line, device)


# Engines first: their logs may quote torch, whose messages are in logs of all of them.
MODULES = ("vllm", "sglang", "llamacpp", "trtllm", "megatron", "deepspeed", "torch_oom", "nvidia_smi")


def kinds() -> tuple[Log, ...]:
    """Return all kinds of logs that are read."""
    return tuple(import_module(f"oomph.reconcile.logs.{name}").LOG for name in MODULES)


def read(lines: Iterable[Line], name: str = "the log") -> tuple[Report, ...]:
    """Return a report of each program that speaks of memory in these lines; raises SourceError where none does."""
    found: dict[str, list[Line]] = {}
    known = kinds()
    signs = [(sign, log.program) for log in known for sign in log.signs]
    for line in lines:
        text = line.text
        for program in dict.fromkeys([program for sign, program in signs if sign in text]):
            kept = found.setdefault(program, [])
            if len(kept) < MOST_LINES:
                kept.append(line)
    reports = [log.read(found[log.program]) for log in known if log.program in found]
    told = tuple(report for report in reports if report.figures)
    if not told:
        programs = ", ".join(log.program for log in known)
        raise SourceError(f"{name} has no line on memory that oomph reads.", f"It reads what these print: {programs}.")
    return told
