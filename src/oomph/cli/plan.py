"""`oomph plan` and `oomph max`: what would make a job fit, and the largest value with which it does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from oomph.cli import foreign
from oomph.cli.engine_words import WithWords, asked, engine_options, with_engine
from oomph.cli.job_options import either_options, framework_options, train_options
from oomph.cli.output import dump, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from oomph.devices import Fleet

HELP = {"help_option_names": ["-h", "--help"]}
OFFLINE = click.option("--offline", is_flag=True, help="Never ask a server, whatever MODEL is.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="The versioned answer as JSON.")


@click.command(cls=foreign.Command, context_settings=HELP)
@click.argument("model", required=False)
@click.argument("kind", type=click.Choice(["train"]), default="train", metavar="[train]")
@click.option(
    "--gpu", "-g", required=True, metavar="G", help="A device (rtx-4090), a size (24GiB), auto; or several with commas"
    " between them, to see which holds the job as it is.",
)  # fmt: skip
@framework_options
@train_options
@click.option("--explain", is_flag=True, help="Every change, also those that do not make it fit.")
@AS_JSON
@OFFLINE
def plan(model: str | None, **values: Any) -> int:
    """Say what would make a training step of MODEL fit on a GPU, and what each change costs in speed and quality.

    The changes are one at a time, the cheapest that fits first, and where no single one is enough the cheapest
    combination. For a job that fits: what is left, and what it could have for that.
    """
    from oomph.answer import subject
    from oomph.cli.framework import asked as training
    from oomph.planning.plan import on_devices
    from oomph.planning.plan import plan as make

    fleets = _fleets(values["gpu"])
    said = training(model, values)
    found = subject(said.model, offline=values["offline"], job=said.job)
    said = said.with_model(found.model)
    job = said.within(found.model.context_length)
    if len(fleets) > 1:
        several = on_devices(found, job, fleets)
        several = replace(several, ledgers=tuple(map(said.told, several.ledgers)))
        if values["as_json"]:
            dump(several.to_dict())
        else:
            from oomph.cli.render_plan import render_devices

            with output():
                render_devices(several)
        return 0 if several.fits else 1
    made = make(found, job, fleets[0])
    made = replace(made, ledger=said.told(made.ledger))
    if values["as_json"]:
        dump(made.to_dict())
    else:
        from oomph.cli.render_plan import render

        with output():
            render(made, values["explain"])
    return 0 if made.verdict.fits else 1


@click.command("max", cls=WithWords, context_settings=HELP)
@click.argument("model", required=False)
@click.argument("kind", type=click.Choice(["train", "serve"]), default="train", metavar="[train|serve]")
@click.option("--gpu", "-g", required=True, metavar="G", help="A device (rtx-4090), a size (24GiB) or auto.")
@click.option(
    "--over", multiple=True, metavar="INPUT", help="What to have more of: batch, seq, layers; of serve concurrency,"
    " context, layers; of an engine concurrency, context, gpu-layers, batch or a flag of its own. As often as you like;"
    " each with all else as it is.",
)  # fmt: skip
@engine_options
@framework_options
@either_options
@AS_JSON
@OFFLINE
def largest(model: str | None, over: Sequence[str], **values: Any) -> int:
    """Say how many sequences, tokens or layers of MODEL's job fit on a GPU: one more does not.

    With an engine: how long requests may be and how many at a time, by that engine's rules. Exit code 1: not even one
    does.
    """
    from oomph.answer import subject
    from oomph.cli.framework import either_asked
    from oomph.planning.solve import limits

    if with_engine(values):
        return _of_engine(model, over, values)
    values["infer"] = values["infer"] or values["kind"] == "serve"
    (fleet,) = _fleets(values["gpu"], most=1)
    said = either_asked(model, values)
    question = subject(said.model, offline=values["offline"], job=said.job)
    said = said.with_model(question.model)
    found = limits(question, said.within(question.model.context_length), fleet, over)
    found = replace(found, ledger=said.told(found.ledger))
    if values["as_json"]:
        dump(found.to_dict())
    else:
        from oomph.cli.render_plan import render_limits

        with output():
            render_limits(found)
    return 0 if all(limit.value for limit in found.limits) else 1


def _of_engine(model: str | None, over: Sequence[str], values: dict[str, Any]) -> int:
    """Print the largest values of what an engine serves."""
    from oomph.engines.solve import limits

    what = asked(model, values)
    found = limits(what.found, what.engine, what.job, what.devices, over)
    if values["as_json"]:
        dump(found.to_dict())
    else:
        from oomph.cli.render_serve import render_limits

        with output():
            render_limits(found, what.said)
    return 0 if all(limit.at for limit in found.limits) else 1


def _fleets(text: str, most: int | None = None) -> list[Fleet]:
    """Return the devices named."""
    from oomph.devices import parse_gpus
    from oomph.errors import UsageError

    names = [name for name in text.split(",") if name.strip()]
    if not names or (most is not None and len(names) > most):
        raise UsageError(f"--gpu {text!r} names {len(names)} devices.", "Name one: --gpu rtx-4090.")
    return [parse_gpus(name.strip()) for name in names]
