"""`oomph serve`: what a model takes when it is served, by transformers or by an engine's own rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oomph.cli.engine_words import WithWords, asked, engine_options, with_engine
from oomph.cli.job_options import infer_job, infer_options
from oomph.cli.jobs import HELP, about, run
from oomph.cli.output import dump, output

if TYPE_CHECKING:
    from oomph.cli.engine_words import Asked
    from oomph.ledger import Ledger

EXAMPLES = """\b
  oomph serve llama-3.1-8b --engine vllm --gpu h100 --context 32k --concurrency 64
  oomph serve llama-3.1-8b --engine vllm --gpu 2xh100 -- -tp 2 --gpu-memory-utilization 0.95
  oomph serve --gpu a100-80gb-sxm -- vllm serve Qwen/Qwen3-32B --max-model-len 32768
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
    if with_engine(values):
        return _serve(asked(model, values), map_file, values)
    if map_file is not None or values["format"] is not None:
        given = "--map" if map_file is not None else "--format"
        raise click.UsageError(f"{given} is about an engine: say which, --engine vllm.")
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    return run(model, infer_job(values), values)


def _serve(what: Asked, map_file: str | None, values: dict[str, Any]) -> int:
    from oomph.answer import subject
    from oomph.engines.changes import changes
    from oomph.engines.serving import serve as served

    found = subject(what.model, offline=values["offline"])
    if map_file is not None:
        return _map(found, what, map_file, values)
    ledger = said(served(found, what.engine, what.job, what.devices), what)
    fits = ledger.verdict is None or ledger.verdict.fits
    if not fits and ledger.served:
        better = changes(found, what.engine, what.job, what.devices)
        ledger = replace(ledger, served=replace(ledger.served, changes=better))
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


def _map(found: Any, what: Asked, file: str, values: dict[str, Any]) -> int:
    from oomph.engines.maps import serve_map

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
