"""Plans and limits for people: the advice, changes in the order of advice, what each costs. Sees only results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from oomph.cli.job_options import spelled
from oomph.cli.render import STYLES, Output, plain_table
from oomph.cli.render_job import TO_PLAN, headline
from oomph.cli.text import printable, printable_ledger
from oomph.job import TrainJob
from oomph.planning.result import FITS, TIGHT
from oomph.units import human

if TYPE_CHECKING:
    from rich.table import Table

    from oomph.ledger import Ledger
    from oomph.planning.result import Change, Limits, OnDevices, Part, Plan

WORDS = {"fits": "fits", "tight": "tight", "too_big": "too big"}
ROOMY_PLAN = 76  # columns from which every column of a plan has its place
SHOWN = 8  # changes that do not make it fit, unless all are asked for


def render(plan: Plan, explain: bool) -> None:
    """Print a plan."""
    out = Output()
    ledger = printable_ledger(plan.ledger)
    out.print(headline(ledger))
    assert ledger.verdict is not None  # a plan is for a device
    out.print(Text(ledger.verdict.sentence, style=STYLES[ledger.verdict.status]))
    out.print(Text(ledger.why))
    out.print(Text(printable(plan.advice), style="bold"))
    if plan.combination:
        out.print(_table("together", [plan.combination], out))
    shown = plan.changes if explain else _shown(plan.changes)
    if shown:
        out.print(_table("one change at a time", shown, out))
    if len(shown) < len(plan.changes):
        out.print(Text(f"and {len(plan.changes) - len(shown)} that save less: --explain", style="dim"))
    for limit in plan.room:
        out.print(Text(printable(limit.sentence)))
    if plan.upgrades:
        out.print(_table("what it could have", plan.upgrades, out, "takes more", -1))
    together = plan.combination.parts if plan.combination else ()
    _costs(out, [*together, *(part for change in (*shown, *plan.upgrades) for part in change.parts)])
    if explain:
        for one in plan.refused:
            out.print(Text(f"not estimated: {one.lever}: {printable(one.reason)}", style="dim"))
    _warn(out, ledger)


def _warn(out: Output, ledger: Ledger) -> None:
    for text in ledger.warnings:
        out.print(Text(f"! {text}", style="yellow"))


def _shown(changes: Sequence[Change]) -> Sequence[Change]:
    enough = sum(change.status in (FITS, TIGHT) for change in changes)
    return changes[: enough + SHOWN]


def _table(title: str, changes: Iterable[Change], out: Output, saves: str = "saves", sign: int = 1) -> Table:
    """Return changes with their options, what they save at the peak, and what the GPU then shows; where it is narrow
    without the upper bound, so that options are not cut."""
    shape = 1 + (out.width >= ROOMY_PLAN)
    table = plain_table(title, saves, *("on the GPU", "at most")[:shape], "verdict", right=(1, 2, 3)[: 1 + shape])
    for column in table.columns[1:]:
        column.no_wrap = True
    for change in changes:
        name = Group(*(line for part in change.parts for line in _name(part)))
        figure = change.device
        shown = [human(figure.n_bytes), human(figure.safe_bytes)][:shape] if figure else [""] * shape
        status = Text(WORDS[change.status], style=STYLES[change.status])
        table.add_row(name, human(sign * change.saved_bytes), *shown, status)
    return table


def _name(part: Part) -> tuple[Text, Padding]:
    options = " ".join(spelled(TrainJob, name, value) for name, value in part.typed)
    return Text(part.lever), Padding(Text(options, style="dim"), (0, 0, 0, 2))


def _costs(out: Output, parts: Iterable[Part]) -> None:
    """Print what each lever costs, and who says so."""
    for lever, part in {part.lever: part for part in parts}.items():
        out.print(Text(f"{lever}: ", style="bold").append(part.cost, style="default"))
        out.print(Text(f"  {part.source}", style="dim"))


def render_limits(found: Limits) -> None:
    """Print the largest values, and the two jobs on either side of each."""
    out = Output()
    ledger = printable_ledger(found.ledger)
    out.print(headline(ledger))
    for limit in found.limits:
        out.print(Text(printable(limit.sentence), style="bold" if limit.value else STYLES["too_big"]))
    if not any(limit.value for limit in found.limits) and ledger.job["kind"] == "train":
        out.print(Text(TO_PLAN))
    for limit in found.limits:
        if limit.odd:
            odd = ", ".join(map(str, limit.odd))
            out.print(Text(f"! Some larger values fit all the same, as the allocator's luck has it: {odd}.", "yellow"))
    _warn(out, ledger)


def render_devices(found: OnDevices) -> None:
    """Print one job on several devices."""
    out = Output()
    first = printable_ledger(found.ledgers[0])
    out.print(headline(first))
    table = plain_table("GPU", "programs see", "takes", "at most", "verdict", right=(1, 2, 3))
    for column in table.columns[1:]:
        column.no_wrap = True
    for ledger in found.ledgers:
        figure, verdict = ledger.figure("device"), ledger.verdict
        assert figure is not None
        assert verdict is not None
        assert ledger.device is not None
        status = Text(WORDS[verdict.status], style=STYLES[verdict.status])
        sizes = map(human, (verdict.capacity_bytes, figure.n_bytes, figure.safe_bytes))
        table.add_row(printable(ledger.device["name"]), *sizes, status)
    out.print(table)
    _warn(out, first)
