"""A log as lines: whoever wrote it, it is bounded, and has no escape codes or control characters in it.

Patterns look at one line at a time, lines are short, and no pattern repeats a repetition, so none can hang.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from oomph.errors import SourceError
from oomph.reconcile.found import Line
from oomph.units import MIB, human

MAX_BYTES = 64 * MIB  # a start-up log takes some hundred thousand bytes
MAX_LINE = 16_384  # bytes looked at; vLLM's line of all settings has some thousands
_ESCAPE = re.compile(r"\x1b\[[0-9;?]{0,16}[A-Za-z]")


def read_lines(file: BinaryIO, name: str) -> Iterator[Line]:
    """Yield the lines of a log, long ones cut; raises SourceError for one that is too large to be a log."""
    number = size = 0
    while True:
        try:
            raw = file.readline(MAX_LINE)
        except OSError as error:
            raise SourceError(f"{name} cannot be read: {error.strerror}.", "Is it a file you may read?") from None
        if not raw:
            return
        size += len(raw)
        if size > MAX_BYTES:
            raise SourceError(f"{name} is larger than {human(MAX_BYTES)}.", "Give the part around the start-up.")
        number += 1
        for part in raw.decode("utf-8", "replace").split("\r"):  # progress bars
            yield Line(number, cleaned(part))


def cleaned(text: str) -> str:
    """Return text without escape codes, and with blanks for control characters.

    >>> cleaned("\\x1b[32mINFO\\x1b[0m a\\tb\\x00")
    'INFO a b '
    """
    text = text.rstrip("\n")
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in _ESCAPE.sub("", text))


def number(text: str) -> float:
    """Return a number with commas between thousands.

    >>> number("285,984"), number("7.5552")
    (285984.0, 7.5552)
    """
    return float(text.replace(",", ""))
