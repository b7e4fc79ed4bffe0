"""A served model for people: the verdict, what is on each device, the lines the engine will print, how to start it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from oomph.cli.render import ROOMY, STYLES, Output, plain_table
from oomph.cli.render_job import TITLES, bar, groups
from oomph.cli.text import printable, printable_ledger
from oomph.ledger import TOP, largest
from oomph.units import count, human

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oomph.engines.maps import ServeMap
    from oomph.ledger import Ledger
    from oomph.planning.result import Limits
    from oomph.served import Held

WORDS = {"fits": "fits", "tight": "tight", "too_big": "too big"}
UNITS = {"gib": " GiB", "mib": " MiB", "gb": " GB"}  # by what the name of a printed figure ends in
KINDS = {"runtime": "context, workspaces", "buffers": "buffers"}
# Of each device: a title, how wide a page must be to show it, and the bytes.
DEVICE_COLUMNS: tuple[tuple[str, int, Callable[[Held], int | None]], ...] = (
    ("holds", 0, lambda share: share.n_bytes),
    ("at most", 72, lambda share: share.safe_bytes if share.safe_bytes > share.n_bytes else None),
    ("of", 48, lambda share: share.capacity_bytes),
    ("for requests", 0, lambda share: share.room_bytes),
    ("they need", 60, lambda share: share.needed_bytes),
)


def render(ledger: Ledger, explain: bool) -> None:
    """Print the ledger of a served model."""
    out = Output()
    ledger = printable_ledger(ledger)
    out.print(headline(ledger))
    if ledger.verdict:
        out.print(Text(ledger.verdict.sentence, style=STYLES[ledger.verdict.status]))
    out.print(bar(ledger, out, _capacity(ledger)))
    out.print(_groups(ledger, out))
    if _shares(ledger)[1:]:
        out.print(_devices(ledger, out.width))
    if ledger.served and ledger.served.changes:
        out.print(_changes(ledger))
    if ledger.printed:
        out.print(_printed(ledger))
    for bound in ledger.served.limits if ledger.served else ():
        out.print(Text(f"At most {bound.over} {bound.most:,}: {printable(bound.why)}."))
    if explain:
        out.print(_items(ledger, out.width >= ROOMY))
        for text in dict.fromkeys(f"{item.source}: {item.evidence}" for item in ledger.items if item.evidence):
            out.print(Text(printable(text), style="dim"))
    for text in ledger.warnings:
        out.print(Text(f"! {text}", style="yellow"))
    if ledger.assumptions:
        out.print(Text(f"Assumed: {'; '.join(ledger.assumptions)}", style="dim"))
    if ledger.command:
        out.print(Text(f"$ {printable(shlex.join(ledger.command))}", style="bold"))
    if not explain:
        out.print(Text("--explain: every item, and where its number comes from; --map: contexts x requests.", "dim"))


def headline(ledger: Ledger) -> Text:
    """Return the first line: what is served, by whom, and for how many requests."""
    model, job = ledger.model, ledger.job
    text = Text(str(model["name"] or model["model_type"]), style="bold")
    version = f" {job['version']}" if job["version"] else ""
    where = ""
    if ledger.device and not ledger.device.get("mixed"):
        where = f" · {ledger.device['count']} x {printable(ledger.device['name'])}"
    elif ledger.device:
        where = f" · {printable(' + '.join(ledger.device['mixed']))}"
    text.append(f"  {count(model['params'])} parameters · {job['engine']}{version} · {job['format']}{where}")
    text.append(f" · {job['concurrency']:,} x {job['context']:,} tokens")
    return text


def _shares(ledger: Ledger) -> tuple[Held, ...]:
    return ledger.served.shares if ledger.served else ()


def _capacity(ledger: Ledger) -> int:
    shares = _shares(ledger)
    return sum((share.capacity_bytes or share.n_bytes) * share.count for share in shares)


def _groups(ledger: Ledger, out: Output) -> Table:
    table = groups(ledger, out, "in all", {**TITLES, **KINDS})
    if _shares(ledger)[1:]:  # what different devices hold is no sum that anybody needs
        return table
    table.add_section()
    table.add_row(Text("together", style="bold"), human(ledger.total_bytes), "")
    if ledger.safe_bytes > ledger.total_bytes:
        table.add_row("at most", human(ledger.safe_bytes), "")
    return table


def _devices(ledger: Ledger, width: int) -> Table:
    """Return what each kind of device holds, and what is left there for requests; the less the narrower the page."""
    shown = [each for each in DEVICE_COLUMNS if width >= each[1]]
    table = plain_table("on", *[title for title, _, _ in shown], right=tuple(range(1, 1 + len(shown))))
    for share in _shares(ledger):
        name = printable(share.name) + (f", {share.count} times" if share.count > 1 else "")
        amounts = [amount(share) for _, _, amount in shown]
        table.add_row(name, *["" if amount is None else human(amount) for amount in amounts])
    for column in table.columns[1:]:
        column.no_wrap = True
    return table


def _changes(ledger: Ledger) -> Table:
    """Return what would make it fit."""
    table = plain_table("one change at a time", "gains", "left then", "verdict", right=(1, 2))
    for column in table.columns[1:]:
        column.no_wrap = True
    for change in ledger.served.changes if ledger.served else ():
        words = Padding(Text(printable(" ".join(change.words)), style="dim"), (0, 0, 0, 2))
        name = Group(Text(printable(change.title)), words)
        status = Text(WORDS[change.status], style=STYLES[change.status])
        table.add_row(name, human(change.saved_bytes), human(change.margin_bytes), status)
    return table


def _printed(ledger: Ledger) -> Table:
    """Return the lines that the engine prints at its start, with the other side of what is uncertain."""
    table = plain_table(f"{ledger.job['engine']} will print", "at least or at most", right=(1,))
    bounds: dict[str, list[str]] = {}
    for line in ledger.printed:  # one line may hold several figures
        there = bounds.setdefault(printable(line.text), [])
        if line.safe is not None and line.safe != line.value:
            there.append(f"{line.safe:,.2f}".removesuffix(".00") + UNITS.get(line.name.rpartition("_")[2], ""))
    for text, safe in bounds.items():
        table.add_row(Text(text), ", ".join(safe))
    return table


def _items(ledger: Ledger, roomy: bool) -> Table:
    """Return every item, largest first."""
    table = plain_table("item", *["on"] * roomy, "bytes", "source", right=(1 + roomy,))
    table.columns[1 + roomy].no_wrap = True
    for item in largest(ledger.items, max(len(ledger.items), TOP)):
        shown = f"{item.n_bytes:,}" if item.n_bytes == item.safe_bytes else f"{item.n_bytes:,} to {item.safe_bytes:,}"
        table.add_row(Text(item.name), *[printable(item.device)] * roomy, shown, item.source)
    return table


def render_limits(found: Limits, said: Sequence[str]) -> None:
    """Print the largest values, with what limits each and what is left then."""
    out = Output()
    ledger = printable_ledger(found.ledger)
    out.print(headline(ledger))
    for limit in found.limits:
        out.print(Text(printable(limit.sentence), style="bold" if limit.at else STYLES["too_big"]))
    for text in ledger.warnings:
        out.print(Text(f"! {text}", style="yellow"))
    assumed = [*ledger.assumptions, *map(printable, said)]
    if assumed:
        out.print(Text(f"Assumed: {'; '.join(assumed)}", style="dim"))


STATUS_STYLES = ("green", "yellow", "red", "dim")


def render_map(found: ServeMap) -> None:
    """Print a map: of each pair how much of the room it takes, or that the engine does not serve it."""
    from oomph.draw.grid import percent

    out = Output()
    out.print(headline(printable_ledger(found.ledger)))
    columns = max(1, (out.width - WIDE_NAME) // WIDE_CELL)
    shown = found.concurrencies[:columns]
    table = plain_table("tokens", *map(str, shown), right=range(1 + len(shown)))
    for column in table.columns:
        column.no_wrap = True
    for context, status, share in zip(found.contexts, found.status, found.share, strict=True):
        texts = [
            Text("-" if cell == NOT_SERVED else percent(part) + "?" * (cell == TIGHT), style=STATUS_STYLES[cell])
            for cell, part in zip(status[:columns], share, strict=False)
        ]
        table.add_row(f"{context:,}", *texts)
    out.print(table)
    hidden = len(found.concurrencies) - len(shown)
    more = f" {hidden} more columns on a wider terminal." if hidden else ""
    out.print(
        Text(
            f"How much of the room so many requests take; up to 100% fits, ? perhaps; -: not served.{more}", style="dim"
        )
    )
    if found.ledger.verdict and not any(cell in (FITS, TIGHT) for row in found.status for cell in row):
        out.print(Text(printable(found.ledger.verdict.sentence), style=STYLES[found.ledger.verdict.status]))
    for text in found.ledger.warnings:
        out.print(Text(f"! {printable(text)}", style="yellow"))
    if found.ledger.assumptions:
        out.print(Text(f"Assumed: {printable('; '.join(found.ledger.assumptions))}", style="dim"))


WIDE_NAME, WIDE_CELL = 12, 7  # columns of the terminal
FITS, TIGHT, NOT_SERVED = 0, 1, 3  # places in the map's STATUSES
