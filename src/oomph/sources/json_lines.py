"""Reading JSON lines that anyone may have written: one object a line, lines and their number bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oomph.errors import SourceError
from oomph.sources.json_text import parse_object
from oomph.sources.reader import cannot_read, open_regular
from oomph.units import MIB, human

MAX_LINE = 2 * MIB  # a measured row with its config takes some ten thousand bytes
MAX_LINES = 200_000


def read_lines(
    path: Path, max_line: int = MAX_LINE, max_lines: int = MAX_LINES
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and object of every line of a file that is not empty, in bytes never more than a line at a time.

    Raises SourceError, which names the line, for what is no JSON object, too long, or one line too many.
    """
    with open_regular(path) as file:
        number = 0
        while True:
            try:
                line = file.readline(max_line + 1)
            except OSError as error:
                raise cannot_read(path, error) from None
            if not line:
                return
            number += 1
            where = f"Line {number} of {path.name}"
            if number > max_lines:
                raise SourceError(f"{path.name} has more than {max_lines:,} lines.", "Split it.")
            if len(line) > max_line:
                raise SourceError(
                    f"{where} is longer than {human(max_line)}.", "Give one object of measurements a line."
                )
            if line.strip():
                yield number, parse_object(line, where, max_line, SourceError)
