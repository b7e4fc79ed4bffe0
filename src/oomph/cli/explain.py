"""`oomph explain`: what autograd keeps, and the memory rule of every operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from oomph.cli.job_options import train_job, train_options

if TYPE_CHECKING:
    from oomph.explain import Row, SavedTensors

TOPICS = {
    "saved-tensors MODEL": "what autograd keeps from each layer's forward to its backward, with closed forms",
    "op [NAME]": "an operation's rule: what it allocates, what it saves and why, what its backward allocates",
}
HELP = {"help_option_names": ["-h", "--help"]}


@click.group(invoke_without_command=True, context_settings=HELP)
@click.pass_context
def explain(ctx: click.Context) -> None:
    """Explain where numbers come from: saved tensors, operations."""
    if ctx.invoked_subcommand is None:
        for topic, what in TOPICS.items():
            click.echo(f"oomph explain {topic:<22} {what}")


@explain.command("saved-tensors")
@click.argument("model")
@train_options
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--markdown", is_flag=True, help="Tables to paste into an issue or a page.")
@click.option("--offline", is_flag=True, help="Never ask a server, whatever MODEL is.")
def saved_tensors(model: str, as_json: bool, markdown: bool, offline: bool, **options: Any) -> None:
    """Show what a training step of MODEL keeps for its backward pass, tensor by tensor.

    MODEL is what `oomph MODEL` takes, or a bare model_type such as llama: then its class's default config.
    """
    from oomph import explain as explained
    from oomph.cli.output import dump, output

    if as_json and markdown:
        raise click.UsageError("--json and --markdown exclude each other: choose one.")
    job = train_job(options)
    found = explained.saved_tensors(explained.model_of(model, offline=offline, job=job), job)
    if as_json:
        dump(found.to_dict())
        return
    with output():
        if markdown:
            click.echo(page(found))
        else:
            render(found)


@explain.command("op")
@click.argument("name", required=False)
def operation(name: str | None) -> None:
    """Print the memory rule of an operation or optimizer, or list them all."""
    from oomph.cli.output import output
    from oomph.operations import rule, rules

    with output():
        if name is None:
            for each in rules():
                click.echo(f"{each.name:<30} {each.summary}")
            return
        click.echo(rule(name).text)


COLUMNS = ("tensor", "shape", "dtype", "bytes", "closed form", "kept for")
NARROW = ("tensor", "shape", "bytes", "closed form", "kept for")


def cells(row: Row, stack: str, named: bool = True) -> list[str]:
    """Return a row's cells: the module's path is that within the layer; axes are `named` where there is room."""
    module = row.module.removeprefix(f"{stack}.*").removeprefix(".")
    name = f"{module}: {row.operation}" if module else row.operation
    times = f"{row.count} x " if row.count > 1 else ""
    shape = ", ".join(f"{axis} {size}" if axis and named else str(size) for axis, size in row.shape)
    needed_by = row.needed_by if named else row.needed_by.removesuffix(" backward")
    return [name, f"{times}[{shape}]", row.dtype, f"{row.n_bytes:,}", row.formula, needed_by]


def sums(found: SavedTensors) -> list[list[str]]:
    """Return the last lines: what a layer keeps, all layers, the rest."""
    per = "A, per layer" if found.every == 1 else f"per {found.every} layers"
    return [
        [per, "", "", f"{found.row_bytes:,}", found.formula, ""],
        [f"{found.periods * found.every} layers", "", "", f"{found.layers_bytes:,}", "", ""],
    ]


def rest(found: SavedTensors) -> list[str]:
    """Return the last line of what is kept outside the layers."""
    name = "outside the layers" if found.periods * found.every == found.layers else "the other layers, and outside"
    return [name, "", "", f"{found.outside_bytes:,}", "", ""]


def headline(found: SavedTensors) -> str:
    """Return what the tables are about."""
    from oomph.cli.text import printable

    job = found.job
    words = [f"b={job['batch']}", f"s={job['seq_len']}", job["precision"], f"{job['attention']} attention"]
    if job["checkpointing"] != "none":
        words.append(f"{job['checkpointing']} checkpointing")
    return f"{printable(found.model)}: tensors kept for the backward pass, {', '.join(words)}"


def legend(found: SavedTensors) -> str:
    """Return what the letters stand for."""
    letters = [f"{letter} {means} {size}" for letter, means, size in found.letters]
    return ", ".join([*letters, "T = b·s", "round512: up to a multiple of 512 B, as the allocator does"])


def page(found: SavedTensors) -> str:
    """Return the tables as Markdown."""
    from oomph.cli.markdown import table

    inside = [*(cells(row, found.stack) for row in found.rows), *sums(found)]
    outside = [*(cells(row, found.stack) for row in found.outside), rest(found)]
    return "\n\n".join([f"### {headline(found)}", table(COLUMNS, inside), table(COLUMNS, outside), legend(found)])


def render(found: SavedTensors) -> None:
    """Print the tables for people; a narrow terminal has the dtype before the shape, whose axes are not named."""
    from rich.text import Text

    from oomph.cli.render import WIDE, Output

    out = Output()
    wide = out.width >= WIDE

    def fitted(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
        return [row if wide else (row[0], f"{row[2]} {row[1]}".strip(), *row[3:]) for row in rows]

    out.print(Text(headline(found), style="bold"))
    for rows, last in ((found.rows, sums(found)), (found.outside, [rest(found)])):
        body = [cells(row, found.stack, wide) for row in rows]
        out.print(_table(COLUMNS if wide else NARROW, fitted(body), fitted(last)))
    out.print(Text(legend(found), style="dim"))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], last: Sequence[Sequence[str]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        right = name == "bytes"
        table.add_column(name, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    table.add_section()
    for row in last:
        table.add_row(*(Text(cell, style="bold") for cell in row))
    return table
