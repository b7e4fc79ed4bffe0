"""Rows become outcomes: each quantity estimated or refused, none skipped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from oomph.errors import OomphError
from oomph.score.asking import reason
from oomph.score.readers import read
from oomph.score.reading import MUST_NOT_FIT, Quantity, Reading, unit

CONFIDENCES = ("high", "medium", "low")


@dataclass(frozen=True)
class Outcome:
    """One quantity of one row, in the unit its name ends in; `refused` says why there is no estimate, else None.

    `row` numbers the rows that were read, from 0. `status` is the verdict on a job that ran out of memory.
    """

    row: int
    id: str
    group: str
    quantity: str
    measured: float | None
    predicted: float | None = None
    safe: float | None = None
    refused: str | None = None
    status: str = ""
    assumed: tuple[str, ...] = ()

    @property
    def relative_error(self) -> float | None:
        """(predicted - measured) / measured; None where refused, and where nothing but a limit was measured."""
        if self.predicted is None or not self.measured or self.quantity == MUST_NOT_FIT:
            return None
        return self.predicted / self.measured - 1

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as JSON knows it."""
        return {
            "id": self.id,
            "quantity": self.quantity,
            "measured": self.measured,
            "predicted": self.predicted,
            "safe": self.safe,
            "relative_error": self.relative_error,
            "refused": self.refused,
        }


def score(rows: Iterable[tuple[str, Mapping[str, Any]]], confidence: str = "high") -> Iterator[Outcome]:
    """Yield the outcomes of rows, each given with what names it in an error; one per quantity, at least one per row.

    Rows of less confidence than `confidence` are refused, but for runs out of memory: those happened.
    """
    for index, (where, row) in enumerate(rows):
        reading = read(row, where)
        for quantity in reading.quantities:
            yield _outcome(index, reading, quantity, confidence)


def _outcome(index: int, reading: Reading, quantity: Quantity, least: str) -> Outcome:
    said = (index, reading.id, reading.group, quantity.name, quantity.measured)
    if quantity.refused:
        return Outcome(*said, refused=quantity.refused)
    if quantity.name != MUST_NOT_FIT and not _trusted(reading.confidence, least):
        return Outcome(*said, refused=f"confidence {reading.confidence}: not asked for")
    size = unit(quantity.name)
    if quantity.ask is None or size is None:
        return Outcome(*said, refused=f"{quantity.name}: not modelled")
    try:
        answer = quantity.ask()
    except OomphError as error:
        return Outcome(*said, refused=reason(error))
    return Outcome(
        *said,
        predicted=answer.n_bytes / size,
        safe=answer.safe_bytes / size,
        status=answer.status,
        assumed=reading.assumed,
    )


def _trusted(found: str, least: str) -> bool:
    return found in CONFIDENCES[: CONFIDENCES.index(least) + 1]
