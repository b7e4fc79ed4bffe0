"""Selective checkpointing: results of chosen operations are kept from the forward pass, all others are made again.

What is kept of a call is handed out in its place when the layer runs again, so that its operation does not run. What
the second run does not come to, as it stops early, stays until the layer's backward is over. Source: torch 2.13,
utils/checkpoint.py, create_selective_checkpoint_contexts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from oomph.tape.sym import Sym

if TYPE_CHECKING:
    from oomph.tape.tape import Tape

EVERY_OTHER = "mm/2"  # the first, third ... product, as torchtitan's policy has it
# Words of a job and the operations they stand for.
SELECTED: dict[str, str] = {"mm": "mm", EVERY_OTHER: "mm", "addmm": "addmm", "bmm": "bmm", "attention": "attention"}
Results = TypeVar("Results", bound="tuple[Sym | None, ...]")


class Selection:
    """What one checkpointed call keeps: of each operation its results in order, None where they are made again."""

    def __init__(self, words: frozenset[str]) -> None:
        self.words = words
        self.kept: dict[str, list[Any]] = {}
        self.seen: dict[str, int] = {}
        self.again = False  # whether this is the second run

    def of(self, op: str, make: Callable[[], Results]) -> Results:
        """Return the results of a call of an operation, made or kept."""
        if not self.again:
            made = make()
            calls = self.kept.setdefault(op, [])
            every_other = op == SELECTED[EVERY_OTHER] and EVERY_OTHER in self.words and not len(calls) % 2
            chosen = op in self.words or every_other
            calls.append(tuple(None if one is None else one.detach() for one in made) if chosen else None)
            return made
        at = self.seen.get(op, 0)
        self.seen[op] = at + 1
        found, self.kept[op][at] = self.kept[op][at], None
        return make() if found is None else found


def selected(tape: Tape, op: str, make: Callable[[], Results]) -> Results:
    """Return the results of an operation that selective checkpointing may keep."""
    return make() if tape.selection is None else tape.selection.of(op, make)


def words_of(text: str) -> frozenset[str]:
    """Return the words of a list with commas.

    >>> sorted(words_of("attention, mm/2"))
    ['attention', 'mm/2']
    """
    return frozenset(filter(None, (word.strip() for word in text.split(","))))
