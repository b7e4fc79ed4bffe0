"""A file of measured rows, one JSON object a line, that survives whatever ends the program that writes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from oomph.errors import SourceError, UsageError
from oomph.referee.measure import SCHEMA
from oomph.units import MIB

MAX_LINE = MIB  # bytes of a row; one with a large config has some ten thousand
BEGINNING = b'{"schema":'  # of a row that was cut off


class RowFile:
    """Rows are appended to `path`. `done` holds the ids of those already in it.

    A last line that was cut off is removed. Raises UsageError where the file holds anything but rows, SourceError
    where it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done = frozenset[str]()
        try:
            if path.exists():
                self.done = frozenset(self._read())
            self._file = open(path, "ab")  # noqa: SIM115 - as long as this object
        except OSError as error:
            raise self._cannot_write(error) from None

    def _read(self) -> Iterator[str]:
        if not self.path.is_file():
            raise UsageError(f"{self.path} is not a file.", "Give -o the name of a file.")
        with open(self.path, "rb") as file:
            while line := file.readline(MAX_LINE + 1):
                ident = _ident(line)
                if ident is None:
                    whole = file.tell() - len(line)
                    break
                yield ident
            else:
                return self._end_the_line()
        if line.endswith(b"\n") or len(line) > MAX_LINE or not BEGINNING.startswith(line[: len(BEGINNING)]):
            raise UsageError(f"{self.path} holds other things than measured rows.", "Give -o another file.")
        os.truncate(self.path, whole)

    def _end_the_line(self) -> None:
        """Add the line break that an editor may have left out."""
        with open(self.path, "rb+") as file:
            if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n":
                file.write(b"\n")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row so that it is there whatever happens next."""
        try:
            self._file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._cannot_write(error) from None

    def _cannot_write(self, error: OSError) -> SourceError:
        return SourceError(f"{str(self.path)[:200]!r} cannot be written: {error.strerror or error}.", "Check the path.")

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _ident(line: bytes) -> str | None:
    """Return the id of a row, None for anything else."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    ours = isinstance(row, dict) and row.get("schema") == SCHEMA and isinstance(row.get("id"), str)
    return str(row["id"]) if ours else None
