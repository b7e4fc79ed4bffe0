"""Printing: readers of pipes that leave, full disks, encodings without some characters."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def output() -> Iterator[None]:
    """Print within: a reader of a pipe may leave early (`oomph models | head`), a full disk is an error."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        if not isinstance(error, BrokenPipeError):
            from oomph.errors import SourceError

            raise SourceError(f"The output cannot be written: {error.strerror}.", "Is the disk full?") from None


def dump(value: Any) -> None:
    """Print JSON, indented for people, exact for programs; what the encoding lacks is escaped."""
    escape = not (sys.stdout.encoding or "").lower().startswith("utf")
    with output():
        json.dump(value, sys.stdout, ensure_ascii=escape, indent=1)
        sys.stdout.write("\n")
