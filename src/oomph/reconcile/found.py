"""What a log says: figures with the line they stand in, and the command that started the program, if it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SHOWN = 160  # characters of a line that are repeated


class Line(NamedTuple):
    """A line of a log: its number from 1, and its text, bounded and without control characters."""

    number: int
    text: str


@dataclass(frozen=True)
class Figure:
    """One figure of a log. `name` ends in its unit (weights_gib, kv_tokens); `value` is in that unit.

    `device` is the rank, GPU or buffer it is of, "" where the log does not say.
    """

    name: str
    value: float
    line: Line
    device: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the figure as JSON knows it."""
        text = self.line.text.strip()[:SHOWN]
        return {"name": self.name, "value": self.value, "device": self.device, "line": self.line.number, "text": text}


@dataclass(frozen=True)
class Report:
    """All figures of one program's log.

    `program` is what wrote it. `command` are the words that would start it again, as far as the log tells; () where it
    does not. `beside` are those that name other files than the model's. `facts` is what else it says of the job, in
    words.
    """

    program: str
    figures: tuple[Figure, ...]
    command: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    def named(self, name: str) -> tuple[Figure, ...]:
        """Return the figures of one name, in the order of the log."""
        return tuple(one for one in self.figures if one.name == name)

    def last(self, name: str) -> Figure | None:
        """Return the last figure of a name: a program may have been started twice."""
        found = self.named(name)
        return found[-1] if found else None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON knows it."""
        return {
            "program": self.program,
            "command": [*self.command, *self.beside],
            "facts": dict(self.facts),
            "figures": [one.to_dict() for one in self.figures],
        }
