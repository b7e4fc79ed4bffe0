"""`oomph score`: every measured row of a file estimated, and how far off that is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from oomph.score.scoring import Outcome

PROGRESS_AFTER = 50  # rows; fewer are done before anyone looks


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True, metavar="FILE.jsonl ...")
@click.option("--rows", "all_rows", is_flag=True, help="Every row, not only the worst.")
@click.option(
    "--confidence",
    default="high",
    show_default=True,
    type=click.Choice(["high", "medium", "low"]),
    help="The least confidence a row may have to be scored.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, every row included.")
def score(files: Sequence[str], all_rows: bool, confidence: str, as_json: bool) -> int:
    """Estimate every measured row of FILEs and print how far off that is, without a GPU and without the network.

    A row is what `oomph measure` writes, or one of the published ones described in docs/score.md. What cannot be
    estimated is refused and counted by reason; nothing is left out.
    """
    from oomph.score.scoring import score as scored

    outcomes = list(_shown(scored(_rows(files), confidence)))
    if as_json:
        from oomph.cli.output import dump
        from oomph.score.summary import to_dict

        dump(to_dict(outcomes))
    else:
        from oomph.cli.output import output
        from oomph.cli.render_score import render

        with output():
            render(outcomes, all_rows)
    return 0


def _rows(files: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every row with what names it in an error."""
    from oomph.sources.json_lines import read_lines

    for name in files:
        path = Path(name)
        for number, row in read_lines(path):
            yield f"Line {number} of {path.name}", row


def _shown(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Pass outcomes on and say on a terminal's stderr how many rows are done."""
    loud = sys.stderr is not None and sys.stderr.isatty()
    done = 0
    for one in outcomes:
        if loud and one.row >= PROGRESS_AFTER and one.row != done:
            done = one.row
            print(f"\r{done} rows", end="", file=sys.stderr, flush=True)
        yield one
    if done:
        print("\r" + " " * len(f"{done} rows") + "\r", end="", file=sys.stderr, flush=True)
