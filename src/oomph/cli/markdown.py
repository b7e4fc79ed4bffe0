"""A ledger as Markdown, to paste into an issue or a page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from oomph.cli.text import printable_ledger
from oomph.ledger import TOP, largest
from oomph.units import count, human

if TYPE_CHECKING:
    from oomph.ledger import Item, Ledger


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; cells may hold anything but are kept on their line.

    >>> print(table(["a", "b"], [["1", "x|y"]]))
    | a | b |
    |---|---|
    | 1 | x\\|y |
    """
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *(list(row) for row in rows)]
    text = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines]
    text[1] = "|" + "---|" * len(columns)
    return "\n".join(text)


def page(ledger: Ledger, explain: bool) -> str:
    """Return the whole ledger."""
    ledger = printable_ledger(ledger)
    model = ledger.model
    parts = [
        f"### {model['name'] or model['model_type']}: {count(model['params'])} parameters, {ledger.job['format']}",
        ledger.verdict.sentence if ledger.verdict else f"Weights: {human(ledger.total_bytes)}.",
    ]
    if ledger.alternatives:
        rows = [
            [
                row.format,
                _size(row.total_bytes),
                _size(row.safe_bytes),
                {True: "yes", False: "no", None: ""}[row.fits],
            ]
            for row in ledger.alternatives
        ]
        parts.append(table(["format", "weights", "at most", "fits"], rows))
    kinds = [[kind, human(n_bytes), f"{n_bytes:,}"] for kind, n_bytes in ledger.kinds.items()]
    kinds += [["**weights**", human(ledger.total_bytes), f"{ledger.total_bytes:,}"]]
    kinds += [["at most", human(ledger.safe_bytes), f"{ledger.safe_bytes:,}"]]
    parts.append(table(["block", "size", "bytes"], kinds))
    if explain:
        items = [
            [
                item.name,
                _axes(item),
                item.dtype,
                f"{item.n_bytes:,}",
                item.source,
            ]
            for item in ledger.items
        ]
        parts.append(table(["tensor", "axes", "dtype", "bytes", "source"], items))
    notes = [f"- warning: {text}" for text in ledger.warnings] + [f"- assumed: {text}" for text in ledger.assumptions]
    return "\n\n".join([*parts, "\n".join(notes)]).rstrip()


def job_page(ledger: Ledger, explain: bool) -> str:
    """Return the ledger of a job."""
    ledger = printable_ledger(ledger)
    model, job = ledger.model, ledger.job
    parts = [
        f"### {model['name'] or model['model_type']}: {job['kind']}, {job['batch']} x {job['seq_len']} tokens, "
        f"{job['precision']}",
        ledger.verdict.sentence if ledger.verdict else ledger.why,
        *([ledger.why] if ledger.verdict else []),
        table(
            ["figure", "point", "at most", "bytes"],
            [[one.name, human(one.n_bytes), human(one.safe_bytes), f"{one.n_bytes:,}"] for one in ledger.figures],
        ),
        table(
            ["at the peak", "size", "bytes"],
            [[group, human(size), f"{size:,}"] for group, size in ledger.groups.items() if size],
        ),
    ]
    shown = largest(ledger.items, len(ledger.items) if explain else TOP)
    rows = [[item.name, _axes(item), item.dtype, human(item.n_bytes), item.evidence] for item in shown]
    parts.append(table(["alive at the peak", "axes", "dtype", "size", "why"], rows))
    instants = [[one.name, human(one.peak_bytes), human(one.end_bytes)] for one in ledger.instants]
    parts.append(table(["instant", "most", "after it"], instants))
    notes = [f"- warning: {text}" for text in ledger.warnings]
    notes.append(f"- the job: {', '.join(ledger.assumptions)}")
    return "\n\n".join([*parts, "\n".join(notes)])


def _axes(item: Item) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in item.axes)


def _size(n_bytes: int | None) -> str:
    return "-" if n_bytes is None else human(n_bytes)
