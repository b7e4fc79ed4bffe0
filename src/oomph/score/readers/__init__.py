"""One file per schema of measured rows. Which one a row has is told by its keys; the first that fits reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oomph.errors import OomphError, SourceError
from oomph.score.asking import device, reason
from oomph.score.readers import inference, measured, training, xmem
from oomph.score.reading import MUST_NOT_FIT, Quantity, Reading, Schema, notes, quantities, refuse, shown
from oomph.units import GIB

SCHEMAS: tuple[Schema, ...] = (measured.SCHEMA, xmem.SCHEMA, training.SCHEMA, inference.SCHEMA)
KEYS_SHOWN = 12


def schema_of(row: Mapping[str, Any], where: str) -> Schema:
    """Return the schema of a row; `where` names it in the error for one that has none."""
    said = row.get("schema")
    if said is not None and said != measured.NAME:
        raise SourceError(f"{where} has the schema {shown(said)}.", f"This oomph reads {measured.NAME}.")
    for schema in SCHEMAS:
        if schema.fits(row):
            return schema
    keys = ", ".join(shown(key) for key in list(row)[:KEYS_SHOWN]) or "none"
    known = "; ".join(f"{schema.name}: {', '.join(schema.keys)}" for schema in SCHEMAS)
    raise SourceError(f"{where} has no schema that oomph knows. Its keys: {keys}.", f"Expected are {known}.")


def read(row: Mapping[str, Any], where: str) -> Reading:
    """Return what a row measured, with how each quantity is estimated or why it is not.

    Raises SourceError for a row without a schema; every other flaw of a row is a refusal.
    """
    schema = schema_of(row, where)
    ident = row.get("id")
    name = ident if isinstance(ident, str) and ident.strip() else where
    group = schema.group(row)
    confidence = row.get("confidence")
    trusted = confidence if isinstance(confidence, str) else "high" if schema is measured.SCHEMA else "low"
    found = _wanted(row, schema)
    try:
        _status(row, schema)
        question = schema.question(row)
    except OomphError as error:
        return Reading(name, group, tuple(_refused(one, reason(error)) for one in found), trusted)
    asked = [
        Quantity(one.name, one.measured, one.refused, question.asks.get(one.name)) if not one.refused else one
        for one in found
    ]
    done = [one if one.refused or one.ask else _refused(one, f"{one.name}: not modelled") for one in asked]
    return Reading(name, group, tuple(done), trusted, question.assumed)


def _wanted(row: Mapping[str, Any], schema: Schema) -> tuple[Quantity, ...]:
    """Return what is scored of a row: of a run that ran out of memory only that it does not fit."""
    if row.get("status") != "oom":
        return quantities(row, schema)
    found = device(row.get("gpu"), schema.total_bytes(row))
    if found is None:
        return (Quantity(MUST_NOT_FIT, None, f"gpu {shown(row.get('gpu'))}: not a GPU that oomph knows"),)
    return (Quantity(MUST_NOT_FIT, found.capacity_bytes / GIB),)


def _status(row: Mapping[str, Any], schema: Schema) -> None:
    status = row.get("status", "ok")
    if status not in ("ok", "oom") and status not in schema.failures:
        raise refuse(f"status {shown(status)}", shown(row.get("reason") or notes(row) or "the run did not finish"))


def _refused(one: Quantity, why: str) -> Quantity:
    return one if one.refused else Quantity(one.name, one.measured, why)
