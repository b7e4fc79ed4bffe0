"""How far off we are, for people: a table per quantity, why rows were refused, the worst rows. Sees only outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from oomph.cli.render import Output, plain_table
from oomph.cli.text import printable
from oomph.score.reading import MUST_NOT_FIT
from oomph.score.summary import Summary, by_group, by_quantity, summary, worst

if TYPE_CHECKING:
    from rich.table import Table

    from oomph.score.scoring import Outcome

WORST = 10  # rows shown of each quantity
REASONS = 12
MAX_ID = 80
ERRORS = ("median", "mean", "p90", "max")
BROAD = 100  # columns from which the mean has its place beside names that are words, not pieces of words


def render(outcomes: Sequence[Outcome], all_rows: bool) -> None:
    """Print every quantity; with `all_rows` every row of it, else the worst and the reasons in short."""
    out = Output()
    rows = len({one.row for one in outcomes})
    estimated = len({one.row for one in outcomes if one.refused is None})
    out.print(Text(f"{rows} rows, {estimated} of them estimated in part or in whole", style="bold"))
    for quantity, found in by_quantity(outcomes).items():
        whole = summary(found)
        if not whole.n:
            continue
        out.print(Text(f"\n{printable(quantity)}", style="bold"))
        out.print(_errors(found, whole, out.width >= BROAD) if quantity != MUST_NOT_FIT else _fits(found, whole))
        shown = found if all_rows else worst(found, WORST)
        scored = [one for one in shown if one.refused is None]
        if scored:
            out.print(_rows(scored))
    if all_rows:
        _assumptions(out, outcomes)
    _refusals(out, outcomes, all_rows)


def _errors(found: Sequence[Outcome], whole: Summary, broad: bool) -> Table:
    """Return the statistics of one quantity, groups first; a narrow terminal leaves out the mean."""
    errors = [name for name in ERRORS if broad or name != "mean"]
    columns = ("n", "refused", *errors, "bias", "under", "safe")
    table = plain_table("group", *columns, right=range(1, 1 + len(columns)))
    for column in table.columns[1:]:
        column.no_wrap = True
    groups = [(name, summary(each)) for name, each in by_group(found).items()]
    for name, each in (*((name, each) for name, each in groups if each.n), ("all", whole)):
        cells = [_percent(getattr(each, name)) for name in errors]
        shares = [_percent(each.under, 0), _percent(each.within_safe, 0)]
        table.add_row(Text(printable(name)), str(each.n), str(each.refused), *cells, _signed(each.bias), *shares)
    return table


def _fits(found: Sequence[Outcome], whole: Summary) -> Table:
    """Return how jobs that ran out of memory are judged."""
    table = plain_table("ran out of memory", "n", "refused", "called fitting", "called tight", right=range(1, 5))
    groups = [(name, summary(each)) for name, each in by_group(found).items()]
    for name, each in (*((name, each) for name, each in groups if each.n), ("all", whole)):
        table.add_row(
            Text(printable(name)), str(each.n), str(each.refused), str(each.called_fitting), str(each.called_tight)
        )
    return table


def _rows(found: Sequence[Outcome]) -> Table:
    table = plain_table("row", "measured", "predicted", "safe", "error", right=range(1, 5))
    for column in table.columns[1:]:
        column.no_wrap = True
    for one in found:
        error = one.status if one.quantity == MUST_NOT_FIT else _signed(one.relative_error)
        table.add_row(Text(_short(one.id)), _figure(one.measured), _figure(one.predicted), _figure(one.safe), error)
    return table


def _assumptions(out: Output, outcomes: Sequence[Outcome]) -> None:
    """Print what rows do not say and what was taken for it."""
    rows: dict[str, set[int]] = {}
    for one in outcomes:
        for text in one.assumed:
            rows.setdefault(text, set()).add(one.row)
    if not rows:
        return
    table = plain_table("assumed", "rows", right=(1,))
    for text, which in sorted(rows.items(), key=lambda pair: len(pair[1]), reverse=True):
        table.add_row(Text(printable(text)), str(len(which)))
    out.print()
    out.print(table)


def _refusals(out: Output, outcomes: Sequence[Outcome], all_rows: bool) -> None:
    """Print why quantities were refused: rows by reason, or every reason in full."""
    rows: dict[str, set[int]] = {}
    for one in outcomes:
        if one.refused is not None:
            reason = one.refused if all_rows else one.refused.split(": ")[0]
            rows.setdefault(reason, set()).add(one.row)
    if not rows:
        return
    table = plain_table("not estimated, because of", "rows", right=(1,))
    ordered = sorted(rows.items(), key=lambda pair: len(pair[1]), reverse=True)
    shown = ordered if all_rows else ordered[:REASONS]
    for reason, which in shown:
        table.add_row(Text(printable(reason)), str(len(which)))
    out.print()
    out.print(table)
    if len(ordered) > len(shown):
        out.print(Text(f"and {len(ordered) - len(shown)} more reasons: --rows", style="dim"))


def _short(ident: str) -> str:
    """Return an id for a table; its two ends tell one row from another.

    >>> _short("a" * 50 + "b" * 50) == "a" * 39 + "..." + "b" * 38
    True
    """
    half = (MAX_ID - len("...")) // 2
    return printable(ident if len(ident) <= MAX_ID else f"{ident[: MAX_ID - len('...') - half]}...{ident[-half:]}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.3f}"


def _percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2%}"
