"""The commands and their options. Rendering lives in render.py, so that --json loads none of it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import click

import oomph
from oomph.cli import foreign
from oomph.cli.output import dump, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oomph.ledger import Ledger

EXAMPLES = """\b
  oomph llama-3-8b --gpu rtx-4090          a name from the catalogue
  oomph Qwen/Qwen3-32B --gpu 2xh100        a Hugging Face repository (config and headers, never weights)
  oomph ./my-model --format nf4            a folder, a config.json, a .safetensors or .gguf file
  cat config.json | oomph - --json         a config on standard input
  oomph train llama-3-8b --seq 4096 --checkpointing non-reentrant --gpu h100
  oomph plan llama-3-8b train --gpu rtx-4090             what would make it fit, and what that costs
  oomph max llama-3-8b train --gpu h100 --over batch      the largest batch that fits
  oomph serve llama-3.1-8b --engine vllm --gpu h100 --context 32k --concurrency 64
  oomph serve --gpu h100 -- vllm serve Qwen/Qwen3-32B --max-model-len 32768   a command, as it is started
"""


# Commands with a module of their own, imported when they are called: weighing a model must not wait for them.
ELSEWHERE = {
    "explain": "oomph.cli.explain",
    "max": "oomph.cli.plan",
    "measure": "oomph.cli.measure",
    "plan": "oomph.cli.plan",
    "reconcile": "oomph.cli.reconcile",
    "score": "oomph.cli.score",
    "serve": "oomph.cli.serve",
    "trace": "oomph.cli.trace",
    "train": "oomph.cli.jobs",
}


FUNCTIONS = {"max": "largest"}  # where a name is taken in Python


class DefaultCommand(click.Group):
    """A group whose first word, when it is not a command, is a model to weigh."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*self.commands, *ELSEWHERE})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return a command, imported now if it has a module of its own."""
        if name not in ELSEWHERE:
            return super().get_command(ctx, name)
        command: click.Command = getattr(import_module(ELSEWHERE[name]), FUNCTIONS.get(name, name))
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `weigh` in front unless a command or only help or the version is asked for."""
        if args and args[0] == "help":
            args = [*args[1:], "--help"]
        words = [arg for arg in args if arg == "-" or not arg.startswith("-")]
        own = {"--help", "-h", "--version"}
        if not (words and args[0] == words[0] and words[0] in self.list_commands(ctx)) and not (
            not words and own & {*args}
        ):
            args = ["weigh", *args] if args else ["--help"]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the two ways to call oomph."""
        formatter.write_usage("oomph", "MODEL [OPTIONS]")
        formatter.write_usage("oomph", "COMMAND [OPTIONS]", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the options of weighing a model first: that is what most people came for."""
        weighing = self.commands["weigh"]
        rows = [row for param in weighing.get_params(ctx) if (row := param.get_help_record(ctx))]
        with formatter.section("Options of oomph MODEL"):
            formatter.write_dl(rows)
        super().format_options(ctx, formatter)


@click.group(
    cls=DefaultCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"Examples:\n\n{EXAMPLES}",
)
@click.version_option(oomph.__version__, prog_name="oomph")
def cli() -> None:
    """Know before you OOM: how much accelerator memory a language model needs, byte by byte, without a GPU."""


@cli.command(hidden=True, cls=foreign.Weighing, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option("--gpu", "-g", metavar="G", help="A device (rtx-4090), several (2xh100), a size (24GiB) or auto.")
@click.option(
    "--format", "-f", "formats", multiple=True, metavar="F", help="How weights are stored: bf16, nf4, q4_k_m ..."
    " The first is judged, further ones stand beside it.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The versioned ledger as JSON (docs/ledger.schema.json).")
@click.option("--markdown", is_flag=True, help="Tables to paste into an issue or a page.")
@click.option("--explain", is_flag=True, help="Every tensor, every assumption, where each number comes from.")
@click.option("--offline", is_flag=True, help="Never ask a server, whatever MODEL is.")
def weigh(
    model: str,
    gpu: str | None,
    formats: Sequence[str],
    as_json: bool,
    markdown: bool,
    explain: bool,
    offline: bool,
) -> int:
    """Weigh MODEL: every stored byte of its weights, and whether a device holds them.

    MODEL is a name from the catalogue (oomph models), a Hugging Face repository (org/name, org/name@revision,
    org/name:file.gguf), a folder, a config.json, a .safetensors or .gguf file, or - for a config on stdin.
    """
    from oomph.answer import estimate

    if as_json and markdown:
        raise click.UsageError("--json and --markdown exclude each other: choose one.")
    ledger = estimate(
        model,
        format=formats[0] if formats else None,
        gpu=gpu,
        side_by_side=formats or (() if as_json and gpu is None else None),
        offline=offline,
    )
    _show(ledger, as_json, markdown, explain)
    return 0 if ledger.verdict is None or ledger.verdict.fits else 1


def _show(ledger: Ledger, as_json: bool, markdown: bool, explain: bool) -> None:
    """Print a ledger in the form asked for."""
    if as_json:
        dump(ledger.to_dict())
    elif markdown:
        from oomph.cli.markdown import page

        with output():
            click.echo(page(ledger, explain))
    else:
        from oomph.cli.render import render

        with output():
            render(ledger, explain)


@cli.command()
@click.argument("text", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def models(text: Sequence[str], as_json: bool) -> None:
    """List the catalogue: the models oomph knows without asking anyone, or those matching TEXT."""
    from oomph.errors import UsageError
    from oomph.sources import catalogue

    found = catalogue.search(" ".join(text))
    if as_json:
        dump(
            [
                {"name": row["name"], "repo": row["repo"], "aliases": row["aliases"], "params": row["params"]}
                for row in found
            ]
        )
        return
    if not found:
        words = " ".join(text)
        raise UsageError(f"No model in the catalogue matches {words!r}.", catalogue.suggest(words))
    from oomph.cli.render import render_models

    with output():
        render_models(found)


@cli.command()
@click.argument("text", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def gpus(text: Sequence[str], as_json: bool) -> None:
    """List the accelerators oomph knows, with the memory programs really see, or those matching TEXT."""
    from oomph import devices
    from oomph.errors import UsageError

    found = devices.search(" ".join(text))
    if as_json:
        dump([device.to_dict() for device in found])
        return
    if not found:
        raise UsageError(f"No accelerator matches {' '.join(text)!r}.", "See oomph gpus for all.")
    from oomph.cli.render import render_gpus

    with output():
        render_gpus(found)


@cli.command()
@click.argument("model")
@click.option("--seq", default=512, show_default=True, type=click.IntRange(1, 2**24), help="Sequence length s.")
@click.option("--batch", default=8, show_default=True, type=click.IntRange(1, 2**20), help="Batch b.")
@click.option("--params", metavar="N", help="Use this count instead of the real one, e.g. 104e9 as articles do.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--offline", is_flag=True, help="Never ask a server, whatever MODEL is.")
def rules(model: str, seq: int, batch: int, params: str | None, as_json: bool, offline: bool) -> None:
    """Show the published rules of thumb for MODEL beside the truth, and what each leaves out."""
    from oomph import rules as published
    from oomph.answer import subject
    from oomph.errors import UnsupportedError

    weighed = subject(model, offline=offline)
    if weighed.counted_by != "config":
        raise UnsupportedError(
            f"The rules need the attention heads of {weighed.model.name}, which names and shapes do not tell.",
            "Point oomph at its config.json.",
        )
    found = weighed.model
    applied = published.apply(found, seq, batch, _count(params))
    if as_json:
        dump(published.to_dict(found, applied, seq, batch))
        return
    from oomph.cli.render import render_rules

    with output():
        render_rules(found, applied, seq, batch)


def _count(text: str | None) -> int | None:
    """Return a parameter count written as 104e9, 70B or 7000000000."""
    if text is None:
        return None
    from oomph.units import parse_count

    return parse_count(text)
