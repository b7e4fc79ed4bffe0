"""A log for people: what it says, what was expected, why they may differ, where the memory went."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from oomph.cli.render import BAR, FULL, MAX_BAR, Output, plain_table
from oomph.cli.text import printable
from oomph.reconcile.anatomy import sentences, slices

if TYPE_CHECKING:
    from oomph.reconcile.compare import Reconciliation, Row
    from oomph.reconcile.found import Figure, Report

MOST = 24  # figures shown of one report
UNITS = {"gib": "GiB", "mib": "MiB"}


def render(found: Reconciliation) -> None:
    """Print what logs say and how an estimate compares."""
    out = Output()
    for report in found.reports:
        out.print(Text(f"{report.program}{_version(report)}", style="bold"))
        if report.command:
            out.print(Text(f"$ {printable(shlex.join((*report.command, *report.beside)))}", style="dim"))
        parts = slices(report)
        if parts:
            out.print(_bar(parts, out))
        if report.program == "torch":
            for text in sentences(report):
                out.print(Text(text))
    if found.rows:
        out.print(_rows(found.rows))
        for row in found.rows:
            for text in row.reasons:
                out.print(Text.assemble((f"{_called(row.name)}: ", "bold"), printable(text)))
    else:
        for report in found.reports:
            if not slices(report):
                out.print(_figures(report))
    for text in found.notes:
        out.print(Text(printable(text), style="yellow"))


def _version(report: Report) -> str:
    version = report.facts.get("version", "")
    return f" {printable(version)}" if version else ""


def _bar(parts: tuple[tuple[str, float], ...], out: Output) -> Text:
    """Return the parts of a card as a bar, and what each block stands for."""
    total = sum(gib for _, gib in parts)
    width = min(out.width, MAX_BAR)
    bar, legend, before = Text(), Text(), 0.0
    for index, (name, gib) in enumerate(parts):
        style = BAR[index % len(BAR)] if name != "free" else "dim"
        cells = round((before + gib) / total * width) - round(before / total * width)
        before += gib
        bar.append(out.blocks(FULL) * cells, style=style)
        legend.append(out.blocks(f"{FULL} "), style=style).append(f"{name} {gib:.2f} GiB   ")
    return Text("\n").join([bar, legend])


def _rows(rows: tuple[Row, ...]) -> Table:
    table = plain_table("figure", "expected", "the log says", "off by", right=(1, 2, 3))
    for row in rows:
        style = "green" if row.agrees else "red" if row.above else "yellow"
        off = "as expected" if row.agrees else f"{row.difference:+.1%}"
        name = _called(row.name) + (f" ({printable(row.real.device)})" if row.real.device else "")
        table.add_row(
            Text(name), _amount(row.name, row.expected), _amount(row.name, row.real.value), Text(off, style=style)
        )
    for column in table.columns[1:]:
        column.no_wrap = True
    return table


def _figures(report: Report) -> Table:
    table = plain_table("figure", "the log says", "line", right=(1, 2))
    last: dict[tuple[str, str], Figure] = {(one.name, one.device): one for one in report.figures}
    for one in list(last.values())[:MOST]:
        name = _called(one.name) + (f" ({printable(one.device)})" if one.device else "")
        table.add_row(Text(name), _amount(one.name, one.value), str(one.line.number))
    return table


def _called(name: str) -> str:
    """Return a figure's name without its unit.

    >>> _called("kv_cache_gib"), _called("model_each_mib"), _called("kv_tokens")
    ('kv cache', 'model', 'kv tokens')
    """
    stem, _, unit = name.rpartition("_")
    return (stem.removesuffix("_each") if unit in UNITS else name).replace("_", " ")


def _amount(name: str, value: float) -> str:
    unit = UNITS.get(name.rpartition("_")[2])
    if unit is None:
        return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
    return f"{value:,.2f} {unit}"
