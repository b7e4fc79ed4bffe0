"""`oomph train`: what a job takes, where its peak is, and whether a device holds it; and what `oomph serve` shares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from oomph.cli import foreign
from oomph.cli.job_options import framework_options, in_vain, train_options, within_context
from oomph.job import TrainJob

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.cli.framework import Asked
    from oomph.devices import Fleet
    from oomph.ledger import Ledger
    from oomph.structure import Job
    from oomph.timeline import Timeline

Command = TypeVar("Command", bound=Callable[..., Any])
HELP = {"help_option_names": ["-h", "--help"]}


def about(command: Command) -> Command:
    """Add what every kind of job takes: the model before, the device and the form of the answer after its options."""
    for decorate in (
        click.option("--offline", is_flag=True, help="Never ask a server, whatever MODEL is."),
        click.option("--explain", is_flag=True, help="Every tensor alive at the peak, every input of the job."),
        click.option("--markdown", is_flag=True, help="Tables to paste into an issue or a page."),
        click.option("--json", "as_json", is_flag=True, help="The versioned ledger as JSON."),
        click.option(
            "--overlay",
            "overlays",
            metavar="SNAPSHOT",
            multiple=True,
            help="Lay a recorded memory snapshot of torch over the timeline; as often as you like.",
        ),
        click.option(
            "--timeline", metavar="FILE", help="Draw memory over the job, the peak marked: .svg, .png or .html."
        ),
        click.option("--gpu", "-g", metavar="G", help="A device (rtx-4090), a size (24GiB) or auto."),
    ):
        command = decorate(command)
    return command


@click.command(cls=foreign.Command, context_settings=HELP)
@click.argument("model", required=False)
@framework_options
@train_options
@about
def train(model: str | None, **values: Any) -> int:
    """Say what one training step of MODEL takes on one GPU: every byte at its peak, and why it is there."""
    return run(trained(model, values), values)


def trained(model: str | None, values: dict[str, Any]) -> Answered:
    """Return the answer to the question that the options of `oomph train` put."""
    from oomph.cli.framework import asked

    said = asked(model, values)
    return answered(said.model, said.job, values, said)


@dataclass(frozen=True)
class Answered:
    """A model, a job, the device, and the ledger of them."""

    subject: Subject
    job: Job
    fleet: Fleet | None
    ledger: Ledger


def answered(model: str, job: Job, values: dict[str, Any], said: Asked | None = None) -> Answered:
    """Return the answer for a job on the device that the options name; `said` is how a training job was asked for."""
    from oomph.answer import subject
    from oomph.device_map import placed
    from oomph.job_ledger import job_ledger

    if values["overlays"] and not values["timeline"]:
        raise click.UsageError("--overlay needs --timeline: say where to draw.")
    if values["as_json"] and values["markdown"]:
        raise click.UsageError("--json and --markdown exclude each other: choose one.")
    fleet = None
    if values["gpu"]:
        from oomph.devices import parse_gpus

        fleet = parse_gpus(values["gpu"])
    found = subject(model, offline=values["offline"], job=job)
    said = said.of(found.model) if said else None
    job = said.job if said else job
    # A framework's length is its own, but sentence-transformers', which cuts texts to what the model has positions for.
    if said is None or found.model.objective == "embedding":
        job = within_context(job, found.model.context_length)
    with _patience(job):
        ledger = job_ledger(found, job, fleet)
    ledger = replace(ledger, warnings=(*in_vain(job), *ledger.warnings))
    ledger = said.told(ledger) if said else ledger
    return Answered(found, placed(found.model, job, fleet.device if fleet else None), fleet, ledger)


def run(what: Answered, values: dict[str, Any]) -> int:
    """Draw and print an answer in the form asked for, and return the exit code."""
    ledger = what.ledger
    if values["timeline"]:
        from oomph.draw import write
        from oomph.job_ledger import timeline

        measured = [_measured(Path(path)) for path in values["overlays"]]
        write(Path(values["timeline"]), [timeline(what.subject, what.job, what.fleet), *measured])
    show(ledger, values["as_json"], values["markdown"], values["explain"])
    return 0 if ledger.verdict is None or ledger.verdict.fits else 1


@contextmanager
def _patience(job: Job) -> Iterator[None]:
    """Say what takes some seconds, where somebody looks at the terminal."""
    if not isinstance(job, TrainJob) or not job.mixed or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status("playing runs of many steps through the allocator"):
        yield


def _measured(path: Path) -> Timeline:
    """Return a recorded snapshot as a drawing sees it: bytes allocated, of which nothing more is known."""
    from oomph.snapshot import read_recording
    from oomph.timeline import from_stream

    return from_stream(read_recording(path).stream, lambda *_: "allocated", title=path.name, source="measured")


def show(ledger: Ledger, as_json: bool, markdown: bool, explain: bool) -> None:
    """Print a job's ledger in the form asked for."""
    from oomph.cli.output import dump, output

    if as_json:
        dump(ledger.to_dict())
        return
    with output():
        if markdown:
            from oomph.cli.markdown import job_page

            click.echo(job_page(ledger, explain))
        else:
            from oomph.cli.render_job import render

            render(ledger, explain)
