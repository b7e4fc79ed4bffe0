"""Estimate and trace beside each other, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from oomph.beside import collapsed
from oomph.cli.render import ROOMY, Output, plain_table, shape_text
from oomph.cli.text import printable, printable_ledger
from oomph.ledger import TOP, largest
from oomph.units import count, human

if TYPE_CHECKING:
    from rich.table import Table

    from oomph.beside import Beside, Row
    from oomph.ledger import Ledger


def render(both: Beside, ledger: Ledger, explain: bool) -> None:
    """Print whether they are equal, what is kept, every instant, and what is alive at the trace's peak."""
    out = Output()
    ledger = printable_ledger(ledger)
    model, job = ledger.model, ledger.job
    out.print(Text(f"{model['name']}  {count(model['params'])} parameters · {job['kind']}", style="bold"))
    out.print(_verdict(both))
    table = plain_table("what stays", "estimate", "trace", right=(1, 2))
    for what, ours, theirs in both.kept:
        table.add_row(what, _bytes(ours), _bytes(theirs))
    out.print(table)
    out.print(_instants(both, explain))
    tensors = plain_table("alive at the trace's peak", "shape", "bytes", *["traced"] * (out.width >= ROOMY), right=(2,))
    for item in largest(ledger.items, TOP):
        shape = Text(f"{shape_text(item)} {item.dtype}")
        tensors.add_row(
            Text(item.name),
            shape,
            human(item.n_bytes),
            *[item.evidence.removeprefix("traced: ")] * (out.width >= ROOMY),
        )
    out.print(tensors)
    for text in ledger.warnings:
        out.print(Text(f"! {text}", style="yellow"))
    for text in ledger.assumptions if explain else ():
        out.print(Text(text, style="dim"))
    kernels = ", ".join(both.trace.kernels) or "none of SDPA's"
    out.print(Text(f"{ledger.why} Attention kernels taken: {kernels}.", style="dim"))


def _verdict(both: Beside) -> Text:
    ours, theirs = both.peaks
    if both.equal is None or ours is None:
        return Text(f"Traced: {human(theirs)} at the peak ({theirs:,} bytes). No estimate: {both.refused}", "yellow")
    if both.equal:
        return Text(f"Equal: every allocation and free, {human(ours)} at the peak ({ours:,} bytes).", "bold green")
    text = f"Different at {both.parting}. Peaks: estimate {ours:,}, trace {theirs:,} bytes ({ours / theirs - 1:+.3%})."
    return Text(printable(text), "bold red")


def _instants(both: Beside, explain: bool) -> Table:
    table = plain_table("instant", "estimate: most", "after it", "trace: most", "after it", "", right=(1, 2, 3, 4))
    top = both.peaks[1]
    for row in both.rows if explain else collapsed(both.rows):
        ours, theirs = row.estimate or (None, None), row.trace or (None, None)
        here = theirs[0] == top
        table.add_row(
            Text(f"{row.name}  <- peak" if here else row.name, style="bold" if here else ""),
            *map(_bytes, (*ours, *theirs)), _sign(both, row),
        )  # fmt: skip
    return table


def _sign(both: Beside, row: Row) -> str:
    if both.equal is None:
        return ""
    return "[green]=[/]" if row.equal else "[red]differs[/]"


def _bytes(n_bytes: int | None) -> str:
    return "-" if n_bytes is None else human(n_bytes)
