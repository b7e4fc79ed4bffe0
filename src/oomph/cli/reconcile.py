"""`oomph reconcile`: what a log says of memory, held against the estimate of the job that wrote it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from oomph.cli.engine_words import BEHIND, WithWords
from oomph.cli.output import dump, output
from oomph.errors import OomphError, SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from oomph.ledger import Ledger
    from oomph.reconcile.found import Report

EXAMPLES = """\b
  oomph reconcile vllm.log --gpu h100       the log names model and flags
  docker logs vllm 2>&1 | oomph reconcile -
  oomph reconcile log.txt -- llama-server -hf org/Qwen3-8B-GGUF:Q4_K_M -c 8192
  oomph reconcile oom.txt -- train llama-3.1-8b --method qlora --seq 4096
  nvidia-smi | oomph reconcile - -- serve qwen2.5-7b --context 8192
"""


@click.command(
    cls=WithWords,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Examples:\n\n{EXAMPLES}",
    options_metavar="[OPTIONS]",
)
@click.argument("log", metavar="FILE|-")
@click.option("--gpu", "-g", metavar="G", help="The device it ran on; a start-up log may tell its size itself.")
@click.option("--model", "-m", metavar="MODEL", help="The model, where the log names a folder that is not here.")
@click.option("--json", "as_json", is_flag=True, help="As JSON (docs/reconcile.schema.json).")
@click.option("--offline", is_flag=True, help="Never ask a server, whatever the model is.")
def reconcile(log: str, gpu: str | None, model: str | None, as_json: bool, offline: bool) -> int:
    """Read a start-up log of an engine, torch out of memory, nvidia-smi, and say how the estimate compares.

    Read are the lines of vLLM, SGLang, llama.cpp and its kin, TensorRT-LLM, Megatron-LM and DeepSpeed, torch's message
    when memory runs out, and nvidia-smi. The estimate is of the command that the log amounts to, or of the one behind
    --: an engine's, or train and serve with the options of oomph. Exit code 1: a figure is beyond the upper bound.
    """
    from oomph.reconcile import logs
    from oomph.reconcile.compare import compared
    from oomph.reconcile.text import read_lines

    with _opened(log) as (file, name):
        reports = logs.read(read_lines(file, name), name)
    words: list[str] = click.get_current_context().meta.get(BEHIND, [])
    ledger, notes = _estimate(reports, words, _Options(gpu, model, offline))
    found = compared(reports, ledger, notes)
    if as_json:
        dump(found.to_dict())
    else:
        from oomph.cli.render_reconcile import render

        with output():
            render(found)
    return 1 if any(row.above for row in found.rows) else 0


class _Options:
    """What was typed beside the log."""

    def __init__(self, gpu: str | None, model: str | None, offline: bool) -> None:
        self.gpu, self.model, self.offline = gpu, model, offline


def _estimate(
    reports: Sequence[Report], words: Sequence[str], options: _Options
) -> tuple[Ledger | None, tuple[str, ...]]:
    """Return the ledger to compare with, and what is to be said about it: typed words must be right, a log may err."""
    if words:
        return _ledger(words, reports, options), ()
    report = next((one for one in reports if one.command), None)
    if report is None:
        from oomph.engines import ENGINES

        engine = next((one.program for one in reports if one.program in ENGINES), None)
        job = "train MODEL ..." if engine is None else f"serve MODEL --engine {engine} --gpu ..."
        return None, (f"Say behind -- which job it was, to see what was to be expected: -- {job}",)
    try:
        return _ledger((*report.command, *report.beside), reports, options), ()
    except OomphError as error:
        failed = error
    if report.beside:
        ledger, notes = _estimate([replace(each, beside=()) for each in reports], words, options)
        without = f"The estimate is without {' '.join(report.beside)}: {failed.problem}"
        return ledger, (without,) if ledger else notes
    return None, (f"No estimate of what the log says was started: {failed}",)


def _ledger(words: Sequence[str], reports: Sequence[Report], options: _Options) -> Ledger:
    """Return the ledger of an oomph command, or of a command that starts an engine."""
    from oomph.cli.jobs import train, trained
    from oomph.cli.serve import serve, served

    words = list(words[1:] if words[0] == "oomph" else words)
    name = words.pop(0) if words and words[0] in ("train", "serve") else ""
    if not name:
        words = [*([options.model] if options.model else []), "--", *words]
    typed = words[: words.index("--")] if "--" in words else words
    gpu = options.gpu or _size(reports)
    before = ["--offline"] if options.offline else []
    if not name:
        before += [*_version(reports), *([] if _is_here(words) else _format(reports, typed))]
    if gpu and not {"--gpu", "-g"} & {word.partition("=")[0] for word in typed}:
        before += ["--gpu", gpu]
    command = train if name == "train" else serve
    context = command.make_context(name or "serve", [*before, *words], parent=click.get_current_context())
    with context:
        values: dict[str, Any] = dict(context.params)
        model = values.pop("model")
        if name == "train":
            return trained(model, values).ledger
        values.pop("map_file")
        return served(model, values)


def _is_here(words: Sequence[str]) -> bool:
    """Say whether a command names a GGUF file that is here, which says itself how it is stored."""
    from pathlib import Path

    return any(word.endswith(".gguf") and len(word) < LONGEST and Path(word).is_file() for word in words)


LONGEST = 1000  # characters of a path


def _version(reports: Sequence[Report]) -> list[str]:
    """Return the option that asks for the version of the engine that wrote the log."""
    told = (f"{report.program}@{report.facts['version']}" for report in reports if report.facts.get("version"))
    return next((["--engine", name] for name in told), [])


def _format(reports: Sequence[Report], typed: Sequence[str]) -> list[str]:
    """Return the option for how weights are stored, where a log tells and nobody typed it."""
    from oomph import formats

    told = next((report.facts["format"] for report in reports if report.facts.get("format")), "")
    if not told or {"--format", "-f"} & {word.partition("=")[0] for word in typed}:
        return []
    try:
        return ["--format", formats.get(told).name]
    except OomphError:
        return []


def _size(reports: Sequence[Report]) -> str | None:
    """Return the size of the GPU as the log has it, for want of its name."""
    for report in reports:
        total = report.last("total_gib")
        if total is not None and 0 < total.value < LARGEST_GIB:
            return f"{total.value:.2f}GiB"
    return None


LARGEST_GIB = 1024  # no GPU has more


@contextmanager
def _opened(log: str) -> Iterator[tuple[BinaryIO, str]]:
    """Yield a log to read, and what to call it."""
    if log == "-":
        if sys.stdin is None:
            raise UsageError("There is no standard input.", "Name a file.")
        yield sys.stdin.buffer, "standard input"
        return
    from pathlib import Path

    from oomph.sources.reader import open_regular

    path = Path(log)
    if not path.exists():
        raise SourceError(f"There is no file {log[:100]!r}.", "Name a log, or - for standard input.")
    with open_regular(path) as file:
        yield file, path.name
