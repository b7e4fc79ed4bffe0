"""`oomph measure`: a job, or a suite of jobs, run on the GPU of this machine with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oomph.cli import foreign
from oomph.cli.job_options import either_options, framework_options, given
from oomph.cli.text import printable

if TYPE_CHECKING:
    from oomph.referee.measure import Entry

SUITES = ("small", "standard", "full", "optimizers")
NOT_OF_A_JOB = {"model", "suite", "output", "snapshot", "seconds", "as_json", "offline"}
EXIT_OOM, EXIT_ERROR = 1, 3


@click.command(cls=foreign.Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", required=False)
@click.option("--suite", type=click.Choice(SUITES), help="Measure many jobs on many models instead of one on MODEL.")
@click.option(
    "--output", "-o", metavar="FILE", help="Append each row to FILE as a line of JSON; rows already there are skipped."
)
@click.option("--snapshot", metavar="DIR", help="Record every allocation, and write one torch snapshot per row to DIR.")
@click.option("--seconds", type=click.FloatRange(min=0), help="Begin no row that would probably end later.")
@click.option("--json", "as_json", is_flag=True, help="Print the row as JSON.")
@click.option("--offline", is_flag=True, help="Never ask a server, whatever MODEL is.")
@framework_options
@either_options
def measure(**values: Any) -> int:
    """Run a job on this machine's GPU with random weights, and write down the memory it took.

    MODEL is what oomph MODEL takes; only its config is read, weights are never downloaded. The real transformers class
    and the real optimizer make a step to warm up, then one that counts (docs/measure.md).
    """
    from oomph.referee import measure as referee
    from oomph.referee.row_file import RowFile

    entries = _entries(values)
    on = referee.device()
    snapshots = _folder(values["snapshot"])
    output = values["output"]
    found: list[Mapping[str, Any]] = []
    with RowFile(Path(output)) if output else nullcontext() as file:
        done = file.done if file is not None else frozenset()
        _say(f"{on['gpu']}: {_left(entries, on, done)} of {len(entries)} rows to measure")
        for row, progress in referee.measure(entries, on, done, seconds=values["seconds"], snapshots=snapshots):
            if file is not None:
                file.append(row)
            _say(referee.sentence(row, progress))
            found.append(row)
    if values["suite"] is not None or not found:
        return 0
    _show(found[0], values["as_json"])
    return {"ok": 0, "oom": EXIT_OOM}.get(found[0]["status"], EXIT_ERROR)


def _entries(values: Mapping[str, Any]) -> Sequence[Entry]:
    """Return what is to be measured; raises UsageError unless exactly a model or a suite is named."""
    from oomph.errors import UsageError

    suite = values["suite"]
    if bool(values["model"] or values["config"]) == (suite is not None):
        raise UsageError("Name either a model or a suite.", "oomph measure qwen3-0.6b, or --suite small -o rows.jsonl.")
    if suite is None:
        return [_entry(values)]
    if values["output"] is None:
        raise UsageError("A suite needs a file for its rows.", f"oomph measure --suite {suite} -o rows.jsonl")
    odd = [option.opts[0] for option in given() if option.name not in NOT_OF_A_JOB]
    if odd or values["as_json"]:
        raise UsageError(f"{(*odd, '--json')[0]} and --suite exclude each other.", "A suite brings its own jobs.")
    from oomph.referee import suites

    return suites.get(suite)


def _entry(values: Mapping[str, Any]) -> Entry:
    from oomph import sources
    from oomph.cli.framework import either_asked
    from oomph.errors import UnsupportedError
    from oomph.referee.measure import Entry, name_of

    asked = either_asked(values["model"], values)
    for text in (*asked.taken, *asked.warnings):
        _say(text)
    source = sources.load(asked.model, offline=values["offline"])
    if source.config is None:
        raise UnsupportedError(f"{source.name} has no config to build its class from.", "Point oomph at a config.json.")
    return Entry(name_of(source.name, asked.job), source.name, source.config, asked.job)


def _folder(path: str | None) -> Path | None:
    """Return a folder for snapshots, made if need be."""
    if path is None:
        return None
    from oomph.errors import SourceError

    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path[:200]!r} cannot be a folder for snapshots: {error}.", "Check the path.") from None
    return Path(path)


def _left(entries: Sequence[Entry], on: Mapping[str, Any], done: frozenset[str]) -> int:
    from oomph.referee.measure import identity

    return len({identity(entry, on) for entry in entries} - done)


def _say(line: str) -> None:
    click.echo(printable(line), err=True)


def _show(row: Mapping[str, Any], as_json: bool) -> None:
    """Print one row: as JSON, or as a short table."""
    if as_json:
        click.echo(json.dumps(row, indent=1))
        return
    for line in _table(row):
        click.echo(printable(line))


def _table(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that people read: phases with their peaks, then the whole."""
    from oomph.units import human

    versions, measured = row["versions"], row["measured"]
    yield f"{row['name']} on {row['gpu']}, torch {versions['torch']}, transformers {versions['transformers']}"
    if row["status"] != "ok":
        where = f" in {row['failed_in']}" if row.get("failed_in") else ""
        yield f"{'Out of memory' if row['status'] == 'oom' else 'Failed'}{where}: {row['reason']}"
    yield f"{'phase':<18}{'most allocated':>16}{'most reserved':>16}{'left allocated':>16}{'seconds':>10}"
    for phase in row.get("phases", ()):
        sizes = (phase[f"{name}_bytes"] for name in ("peak_allocated", "peak_reserved", "end_allocated"))
        yield f"{phase['name']:<18}" + "".join(f"{human(size):>16}" for size in sizes) + f"{phase['seconds']:>10.3f}"
    for words, name in (
        ("most allocated", "peak_allocated_bytes"),
        ("most reserved", "peak_reserved_bytes"),
        ("CUDA context", "context_bytes"),
        ("as nvidia-smi shows it", "nvidia_smi_bytes"),
    ):
        if measured.get(name) is not None:
            yield f"{words:<34}{human(measured[name]):>16}{measured[name]:>20,} bytes"
