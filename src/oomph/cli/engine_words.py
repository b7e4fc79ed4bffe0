"""What `oomph serve` and `oomph max` share: the engine, its own flags behind --, a pasted command, the devices."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from oomph.cli.foreign import Command as Base
from oomph.errors import SourceError, UsageError
from oomph.sources import MAX_REF

if TYPE_CHECKING:
    from oomph.answer import Subject
    from oomph.devices import Device
    from oomph.engines.base import Engine, ServeJob
    from oomph.engines.command_line import CommandLine

Command = TypeVar("Command", bound=Callable[..., Any])
BEHIND = "oomph.words"  # where the words behind -- are kept
# Of a job that transformers runs, what engines are asked as well; by the names of InferJob's fields.
ALIKE = {"seq_len": "context", "batch": "concurrency"}
# What such options mean to transformers and to an engine.
OF_BOTH = {
    ("serve", "seq_len"): "Tokens of one request. Without an engine those that are read at once, 2048; with one what it"
    " takes by itself.",
    ("serve", "batch"): "Requests at a time.  [default: 1]",
}
DRAWN = (".svg", ".html", ".png", ".pdf", ".jpg", ".jpeg", ".gif", ".webp")  # the last are refused where it is drawn


class WithWords(Base):
    """A command behind whose -- there are words of another program, and whose --map may be followed by a file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the words of the other program away, and give --map its value."""
        if "--" in args:
            at = args.index("--")
            args, ctx.meta[BEHIND] = args[:at], args[at + 1 :]
        for at, arg in enumerate(args):
            if arg == "--map":
                drawn = at + 1 < len(args) and args[at + 1].lower().endswith(DRAWN)
                args = [*args[:at], f"--map={args[at + 1] if drawn else ''}", *args[at + 1 + drawn :]]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show what only transformers is asked apart from what engines are asked as well."""
        only = transformers_only()
        for title, inside in (("Options", False), ("As transformers runs it, without an engine", True)):
            params = [param for param in self.get_params(ctx) if (param.name in only) is inside]
            rows = [
                (row[0], OF_BOTH.get((str(ctx.command.name), str(param.name)), row[1]))
                for param in params
                if (row := param.get_help_record(ctx))
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show where the other program's words go."""
        pieces = " ".join(self.collect_usage_pieces(ctx))
        formatter.write_usage(ctx.command_path, f"{pieces} [-- ENGINE FLAGS]")


def transformers_only() -> set[str]:
    """Return the names of options that say nothing about an engine."""
    from dataclasses import fields

    from oomph.job import InferJob, TrainJob

    inputs = {field.name for kind in (InferJob, TrainJob) for field in fields(kind)}
    return (inputs | {"timeline", "overlays", "infer"}) - {*ALIKE}


def engine_options(command: Command) -> Command:
    """Add what says which engine serves, and how weights are stored."""
    for decorate in (
        click.option(
            "--command", "command_file", metavar="FILE", help="A command that starts an engine, to be read from a file;"
            " - for standard input. Or write it behind --.",
        ),
        click.option("--format", "-f", "format", metavar="F", help="How an engine has the weights: fp8, q4_k_m ..."),
        click.option(
            "--engine", "-e", metavar="NAME[@VERSION]", help="Who serves: vllm, sglang, llama.cpp ... (docs/serve.md);"
            " without it transformers. Its own flags stand behind --.",
        ),
    ):  # fmt: skip
        command = decorate(command)
    return command


@dataclass(frozen=True)
class Asked:
    """An engine, a job, a model, the devices, and what is to be said of how that was read."""

    engine: Engine
    job: ServeJob
    found: Subject
    devices: tuple[Device, ...]
    said: tuple[str, ...]


def with_engine(values: Mapping[str, Any]) -> bool:
    """Say whether an engine serves."""
    return bool(values["engine"] or values["command_file"] or click.get_current_context().meta.get(BEHIND))


def asked(model: str | None, values: Mapping[str, Any]) -> Asked:
    """Return what the options, the words behind -- and a pasted command ask for; what is typed wins."""
    words: list[str] = click.get_current_context().meta.get(BEHIND, [])
    line = _line(values["engine"], words, values["command_file"])
    job = replace(line.job, **_typed(values, line.engine.name))
    devices, job, where = _placed(values["gpu"], line, job, whole=not values["engine"])
    said = [f"not read, they move no memory: {', '.join(dict.fromkeys(line.passed_over))}"] if line.passed_over else []
    if model and line.model and model != line.model:
        said.append(f"the model is {model}; the command says {line.model}")
    found, job, how = _subject(model, line, job, bool(values["offline"]))
    return Asked(line.engine, job, found, devices, (*said, *how, *where))


def _subject(
    typed: str | None, line: CommandLine, job: ServeJob, offline: bool
) -> tuple[Subject, ServeJob, tuple[str, ...]]:
    """Return the model, the job with the format that its name tells, and what is to be said of that.

    One that only the command names may lie on another machine: then its name says which of the catalogue it is.
    """
    from oomph.answer import subject
    from oomph.engines.model_names import by_name, format_in, usual_format

    ref = typed or line.model
    if ref is None:
        raise click.UsageError("Say which model: there is none in that command.")
    told = format_in(line.model) if typed and line.model else None
    try:
        found = subject(ref, offline=offline)
    except (SourceError, UsageError) as error:
        named = None if Path(ref[:MAX_REF]).exists() else by_name(ref, line.engine)
        if named is None:
            if typed:
                raise
            fix = "Or say before -- which model that is."
            raise type(error)(error.problem, f"{error.fix} {fix}" if error.fix else fix) from None
        found, told, why = subject(named.model, offline=offline), named.format, named.why
        how = [f"{ref[:80]} is not here: by its name, {named.model} of the catalogue"]
    else:
        why, how = "as the command's name of it says", []
    if job.format is None and found.source.header is None:
        usual = None if told else usual_format(ref, found, line.engine)
        if told or usual:
            job = replace(job, format=told or usual)
            how.append(f"weights in {told}, {why}" if told else f"weights in {usual}, {LIBRARY}")
    return found, job, tuple(how)


LIBRARY = "as Ollama's library has most models of its kind; --format for another"


def _placed(
    gpu: str | None, line: CommandLine, job: ServeJob, *, whole: bool
) -> tuple[tuple[Device, ...], ServeJob, tuple[str, ...]]:
    """Return the devices that a job takes of those named, the job on them, and what is to be said of that.

    Layers are shared among several devices unless flags or a `whole` command say how many take part.
    """
    from oomph.engines.flags import spelled, width

    devices = _devices(gpu, line.visible, job.ranks)
    wide = width(line.engine.job)
    idle = len(devices) - job.ranks
    if wide is None or idle <= 0:
        return devices, job, ()
    if whole or job.ranks > 1:
        return devices[: job.ranks], job, (f"{idle} of {len(devices)} GPUs are idle",)
    count: Any = {wide: len(devices)}
    words = " ".join(spelled(line.engine, wide, len(devices)))
    return devices, replace(job, **count), (f"{words}: all GPUs that are named",)


def _line(name: str | None, words: Sequence[str], file: str | None) -> CommandLine:
    """Return the command line that is asked for: a pasted one, or an engine's name and its flags."""
    from oomph.engines import engine
    from oomph.engines.command_line import CommandLine, not_read, read_text, read_words, starts
    from oomph.engines.flags import read_flags

    if file is not None and words:
        raise UsageError("--command and words behind -- exclude each other.", "Choose one.")
    whole = file is not None or name is None or starts(words)
    if not whole:
        assert name is not None
        program, version = engine(name.partition("@")[0]), name.partition("@")[2]
        read = read_flags(program, words, program.job(version=version))
        if read.words and not words[0].startswith("-"):
            raise not_read(words)
        if read.words:
            raise UsageError(f"{read.words[0][:60]!r} is no flag of {program.name}.", "Quote what belongs together.")
        return CommandLine(program, read.model, read.job, None, read.passed_over)
    if file is None and len(words) == 1 and " " in words[0].strip():  # a whole command in quotes
        line = read_text(words[0])
    else:
        line = read_text(_text(file)) if file is not None else read_words(words)
    if name is not None:
        program, version = engine(name.partition("@")[0]), name.partition("@")[2]
        if program.name != line.engine.name:
            raise UsageError(f"That command starts {line.engine.name}, not {program.name}.", "Leave --engine out.")
        line = replace(line, job=replace(line.job, version=version or line.job.version))
    return line


def _text(file: str) -> str:
    """Return a short text of a file or of standard input."""
    from oomph.engines.flags import MOST_LETTERS

    try:
        if file == "-":
            return sys.stdin.read(MOST_LETTERS + 1)
        with Path(file).open(encoding="utf-8") as opened:
            return opened.read(MOST_LETTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise SourceError(f"{file[:100]} cannot be read: {reason}.", "Name a file with the command in it.") from None


def _typed(values: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """Return what was typed of the options that every engine is asked; others are a mistake here."""
    from oomph.cli.job_options import given

    own = transformers_only()
    found: dict[str, Any] = {}
    for option in given():
        name = option.name or ""
        if name in ALIKE:
            found[ALIKE[name]] = values[name]
        elif name in own:
            raise UsageError(f"{option.opts[0]} says nothing about {engine}.", "An engine's own flags stand behind --.")
    if values["format"] is not None:
        from oomph import formats

        found["format"] = formats.get(values["format"]).name
    return found


def _devices(text: str | None, visible: tuple[int, ...] | None, ranks: int) -> tuple[Device, ...]:
    """Return the devices that are named and seen; one that is named stands for as many as the command asks for."""
    if text is None:
        return ()
    from oomph.devices import parse_devices

    named = parse_devices(text)
    if len(named) == 1:
        return named * (len(visible) if visible else max(1, min(ranks, MOST_RANKS)))
    if visible is None:
        return named
    if all(0 <= number < len(named) for number in visible):
        return tuple(named[number] for number in visible)
    return named[: len(visible)]


MOST_RANKS = 1024
