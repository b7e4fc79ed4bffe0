"""`oomph serve`: what a model takes when it is served, by transformers or by an engine's own rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oomph.cli.engine_words import WithWords, asked, engine_options, with_engine
from oomph.cli.job_options import infer_job, infer_options
from oomph.cli.jobs import HELP, about, answered, run
from oomph.cli.output import dump, output

if TYPE_CHECKING:
    from oomph.cli.engine_words import Asked
    from oomph.cli.jobs import Answered
    from oomph.ledger import Ledger

EXAMPLES = """\b
  oomph serve llama-3.1-8b -e vllm -g h100 --context 32k --concurrency 64
  oomph serve qwen3-32b -e vllm -g 2xh100 -- --gpu-memory-utilization 0.95
  oomph serve --gpu l40s -- vllm serve Qwen/Qwen3-14B --max-model-len 32768
  oomph serve --gpu rtx-4090 -- llama-server -hf org/Qwen3-14B-GGUF:Q4_K_M
  oomph serve --gpu rtx-4090 --command start.sh
  oomph serve llama-3.1-8b --engine vllm --gpu h100 --map map.svg
"""


@click.command(cls=WithWords, context_settings=HELP, epilog=f"Examples:\n\n{EXAMPLES}")
@click.argument("model", required=False)
@engine_options
@click.option(
    "--map", "map_file", metavar="[FILE]", help="Which contexts and how many requests there is room for, as a table; or"
    " drawn, with a file that ends in .svg, .html or .png.",
)  # fmt: skip
@infer_options
@about
def serve(model: str | None, map_file: str | None, **values: Any) -> int:
    """Say what serving MODEL takes: as transformers runs it on one GPU, or by an engine's own rules.

    With an engine: what it puts on each device, how many tokens its cache has room for, and the lines it prints.
    """
    if values["as_json"] and values["markdown"]:
        raise click.UsageError("--json and --markdown exclude each other: choose one.")
    if not with_engine(values):
        return run(_by_transformers(model, map_file, values), values)
    what = asked(model, values)
    if map_file is not None:
        return _map(what, map_file, values)
    return _show(_by_engine(what, values), values)


def served(model: str | None, values: dict[str, Any]) -> Ledger:
    """Return the ledger that the options of `oomph serve` ask for."""
    if not with_engine(values):
        return _by_transformers(model, None, values).ledger
    return _by_engine(asked(model, values), values)


def _by_transformers(model: str | None, map_file: str | None, values: dict[str, Any]) -> Answered:
    if map_file is not None or values["format"] is not None:
        given = "--map" if map_file is not None else "--format"
        own = "" if map_file is not None else " Weights as transformers itself quantises them: --quantization."
        raise click.UsageError(f"{given} is about an engine: say which, --engine vllm.{own}")
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    return answered(model, infer_job(values), values)


def _by_engine(what: Asked, values: dict[str, Any]) -> Ledger:
    """Return the ledger of a model in an engine; where it does not fit with what would make it."""
    from oomph.engines.changes import changes
    from oomph.engines.serving import serve as served_by

    found = what.found
    ledger = said(served_by(found, what.engine, what.job, what.devices), what)
    if ledger.served and ledger.verdict is not None and not ledger.verdict.fits:
        better = changes(found, what.engine, what.job, what.devices)
        ledger = replace(ledger, served=replace(ledger.served, changes=better))
    return ledger


def _show(ledger: Ledger, values: dict[str, Any]) -> int:
    """Print a served model's ledger in the form asked for, and return the exit code."""
    fits = ledger.verdict is None or ledger.verdict.fits
    if values["as_json"]:
        dump(ledger.to_dict())
        return 0 if fits else 1
    with output():
        if values["markdown"]:
            from oomph.cli.markdown_serve import page

            click.echo(page(ledger, values["explain"]))
        else:
            from oomph.cli.render_serve import render

            render(ledger, values["explain"])
    return 0 if fits else 1


def said(ledger: Ledger, what: Asked) -> Ledger:
    """Return a ledger with what is to be said of how the question was read."""
    return replace(ledger, assumptions=(*ledger.assumptions, *what.said))


def _map(what: Asked, file: str, values: dict[str, Any]) -> int:
    from oomph.engines.maps import serve_map

    found = what.found
    made = serve_map(found, what.engine, what.job, what.devices)
    made = replace(made, ledger=said(made.ledger, what))
    if file:
        from oomph.draw.grid import write_map

        write_map(Path(file), made)
    if values["as_json"]:
        dump(made.to_dict())
    elif values["markdown"]:
        raise click.UsageError("A map is a table, a drawing or --json.")
    else:
        from oomph.cli.render_serve import render_map

        with output():
            render_map(made)
    return 0 if made.ledger.verdict is None or made.ledger.verdict.fits else 1
