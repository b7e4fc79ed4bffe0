"""`oomph trace`: the real transformers and torch.optim code without memory, beside the estimate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oomph.cli import foreign
from oomph.cli.job_options import either_options, framework_options

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.played import Played
    from oomph.structure import Job


@click.command(cls=foreign.Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", required=False)
@framework_options
@either_options
@click.option("--timeline", metavar="FILE", help="Draw estimate and trace over each other: .svg, .png or .html.")
@click.option("--seconds", default=600, show_default=True, type=click.IntRange(1, 86400), help="Stop after so long.")
@click.option("--explain", is_flag=True, help="Every instant, equal or not.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, the trace's ledger included.")
@click.option("--offline", is_flag=True, help="Never ask a server, whatever MODEL is.")
def trace(model: str | None, **values: Any) -> int:
    """Run a job of MODEL through the real code on tensors without memory, and hold the estimate against it.

    Works for every causal language model that transformers knows, also where oomph has no estimate. Needs
    pip install "oomph[trace]" and no GPU. Exit code 0: every event is equal, or there is no estimate; 1: they differ.
    """
    from oomph.answer import facts, subject
    from oomph.beside import beside, to_dict, trace_ledger
    from oomph.cli.framework import either_asked
    from oomph.cli.output import dump, output
    from oomph.errors import ConfigError
    from oomph.job import describe
    from oomph.referee import trace as referee

    asked = either_asked(model, values)
    found = subject(asked.model, offline=values["offline"], job=asked.job)
    asked = asked.with_model(found.model)
    if found.source.config is None:
        raise ConfigError(f"{found.model.name} has no config to build its class from.", "Point oomph at one.")
    job = asked.within(found.model.context_length)
    played, refused = _played(found, job)
    with _progress() as progress:
        traced = referee.run(found.source.config, job, progress, values["seconds"])
    both = beside(job, played, traced, refused)
    said = {"kind": "train" if not values["infer"] else "serve", "model": found.source.name}
    said |= {"origin": found.source.origin, "format": job.precision, **describe(job)}
    ledger = asked.told(trace_ledger(facts(found), said, traced))
    if values["timeline"]:
        _draw(values["timeline"], found, job, traced, refused)
    if values["as_json"]:
        dump(to_dict(both, ledger))
    else:
        from oomph.cli.render_trace import render

        with output():
            render(both, ledger, values["explain"])
    return 1 if both.equal is False else 0


def _played(found: Subject, job: Job) -> tuple[Played | None, str]:
    """Return the step as a trace would see it, or why there is none."""
    from oomph.errors import UnsupportedError
    from oomph.play import play

    try:
        return play(found.model, job, on="trace"), ""
    except UnsupportedError as error:
        return None, error.problem


def _draw(path: str, found: Subject, job: Job, traced: Any, refused: str) -> None:
    from oomph.beside import AS_ESTIMATED
    from oomph.draw import write
    from oomph.job_ledger import timeline
    from oomph.timeline import from_stream
    from oomph.trace_groups import trace_groups, trace_start

    stream = replace(
        traced.stream, marks=[(position, AS_ESTIMATED.get(name, name)) for position, name in traced.stream.marks]
    )
    drawn = from_stream(stream, trace_groups(stream), title=found.model.name, source="trace", start=trace_start(stream))
    write(Path(path), [drawn] if refused else [timeline(found, job), drawn])


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """Show how many layers were traced, where somebody looks at the terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("tracing"), BarColumn(), MofNCompleteColumn(), TextColumn("layers"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("tracing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
