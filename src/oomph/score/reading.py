"""What a reader makes of a row: what was measured, how each is estimated, or why it is not. Values are untrusted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from oomph.errors import UnsupportedError
from oomph.units import GIB, MIB

# All that a run out of memory says: that the job does not fit. `measured` is then what the GPU shows programs.
MUST_NOT_FIT = "must_not_fit_gib"
# What an engine leaves to requests: their safe bound is a lower one.
LEFT = frozenset({"kv_cache_gib", "kv_tokens", "kv_blocks", "max_concurrency"})
SHOWN = 60  # characters of a row's value repeated in a message

_NOT_SCORED = re.compile(r"do not score (\w+)")


@dataclass(frozen=True)
class Answer:
    """An estimate in bytes, or a count: the point and the upper bound (of what is left to requests, the lower one).

    `status` is the verdict where a device was asked about.
    """

    n_bytes: float
    safe_bytes: float
    status: str = ""


Ask = Callable[[], Answer]


@dataclass(frozen=True)
class Question:
    """What a row asks: how to estimate each quantity it can be asked for, and what had to be assumed.

    An Ask raises OomphError where there is no estimate; what it says is the reason of the refusal.
    """

    asks: Mapping[str, Ask]
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quantity:
    """One thing a row measured, in the unit its name ends in; `refused` says why it cannot be scored, else ''."""

    name: str
    measured: float | None
    refused: str = ""
    ask: Ask | None = None


@dataclass(frozen=True)
class Reading:
    """A row as read: `group` is the program that ran, `confidence` how far the row itself can be trusted."""

    id: str
    group: str
    quantities: tuple[Quantity, ...]
    confidence: str = "high"
    assumed: tuple[str, ...] = ()


def _nothing(row: Mapping[str, Any]) -> int | None:
    return None


@dataclass(frozen=True)
class Schema:
    """One kind of rows. `keys` are those by which a row is known; `quantities` are names of numbers under `measured`.

    `names` empty means all of them are. `question` raises UnsupportedError for a row it cannot ask about.
    """

    name: str
    keys: tuple[str, ...]
    group: Callable[[Mapping[str, Any]], str]
    question: Callable[[Mapping[str, Any]], Question]
    names: tuple[str, ...] = ()
    exact: Mapping[str, str] = field(default_factory=dict)  # names of the same in bytes
    failures: tuple[str, ...] = ()  # values of status that leave what was measured true
    total_bytes: Callable[[Mapping[str, Any]], int | None] = _nothing  # the GPU's memory where rows say it

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Tell whether a row has the keys of this schema."""
        return all(key in row for key in self.keys)


def refuse(what: str, why: str) -> UnsupportedError:
    """Return the error of a row that cannot be estimated: what it is about, then why, in one line.

    >>> str(refuse("method lora", "not modelled yet"))
    'method lora: not modelled yet'
    """
    return UnsupportedError(f"{what}: {why}")


def shown(value: Any) -> str:
    """Return a row's value for a message: short, on one line.

    >>> shown("a\\nb"), shown(None), shown([1])
    ('a b', 'unknown', '[1]')
    """
    text = "unknown" if value is None else " ".join(str(value).split())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def words(row: Mapping[str, Any], key: str) -> str:
    """Return a value that must be text; refused where it is missing or something else."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise refuse(key, "not said" if value is None else f"{shown(value)} is not text")
    return value.strip()


def one_of(row: Mapping[str, Any], key: str, known: Mapping[str, Any]) -> Any:
    """Return what a row's words mean; refused for others than are known."""
    value = words(row, key)
    if value not in known:
        raise refuse(f"{key} {shown(value)}", "not modelled yet")
    return known[value]


def whole(row: Mapping[str, Any], key: str, most: int = 2**31) -> int:
    """Return a value that must be a whole number of at least 1; refused where it is missing or something else."""
    value = row.get(key)
    if value is None:
        raise refuse(key, "not said")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise refuse(key, f"{shown(value)} is not a whole number from 1 to {most}")
    return value


def notes(row: Mapping[str, Any]) -> str:
    """Return a row's notes as one text, whatever they are."""
    found = row.get("notes")
    if isinstance(found, list):
        return "; ".join(map(str, found))
    return found if isinstance(found, str) else ""


def number(value: Any) -> float | None:
    """Return a finite number, None for anything else.

    >>> number(1.5), number(True), number("1"), number(float("inf")), number(10**400)
    (1.5, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def quantities(row: Mapping[str, Any], schema: Schema) -> tuple[Quantity, ...]:
    """Return what a row measured; of several forms of one figure the exact one, in GiB.

    A value that is no number, not above 0, or that the notes say not to score comes with the reason it is refused.
    """
    measured = row.get("measured")
    if not isinstance(measured, Mapping):
        return (Quantity("nothing", None, "measured: not an object"),)
    unscored = tuple(_NOT_SCORED.findall(notes(row)))
    found = [
        _quantity(measured, name, schema, unscored)
        for name in (schema.names or _numbers(measured))
        if measured.get(name) is not None
    ]
    return tuple(found) or (Quantity("nothing", None, "measured: no number in it"),)


def _numbers(measured: Mapping[str, Any]) -> Iterable[str]:
    """Return the names of all that should be a number; lists and objects break one of them down."""
    return [name for name, value in measured.items() if not isinstance(value, (list, dict))]


def _quantity(measured: Mapping[str, Any], name: str, schema: Schema, unscored: tuple[str, ...]) -> Quantity:
    exact = number(measured.get(schema.exact.get(name, "")))
    value = number(measured[name]) if exact is None else exact / GIB
    if value is None or value <= 0:
        return Quantity(name, None, f"{name}: {shown(measured[name])} is no measurement of memory")
    if any(name.startswith(word) for word in unscored):
        return Quantity(name, value, f"{name}: the row's notes say not to score it")
    return Quantity(name, value)


# Bytes of the unit a name may end in; counts have none, their Answer is the count. A card of 8 "GB" has 8 GiB.
UNITS = {
    "gb": GIB,
    "gib": GIB,
    "mib": MIB,
    "bytes": 1,
    "tokens": 1,
    "blocks": 1,
    "cells": 1,
    "layers": 1,
    "concurrency": 1,
}


def unit(name: str) -> int | None:
    """Return the bytes of the unit a quantity's name says last, 1 for a count, None where it says neither.

    >>> unit("peak_allocated_gib"), unit("torch_reserved_peak_gib_est"), unit("kv_tokens"), unit("seconds")
    (1073741824, 1073741824, 1, None)
    """
    return next((UNITS[word] for word in reversed(name.split("_")) if word in UNITS), None)
