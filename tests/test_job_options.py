"""Options of jobs: one for each field, with the field's default, type and choices, in the words people use."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_type_hints

import click
import pytest
from click.testing import CliRunner, Result

from oomph.cli import job_options
from oomph.errors import UsageError
from oomph.job import InferJob, TrainJob
from tests.test_cli import as_json


@click.command()
@job_options.train_options
def train(**values: Any) -> None:
    """Print a training job."""
    click.echo(repr(job_options.train_job(values)))


@click.command()
@job_options.infer_options
def infer(**values: Any) -> None:
    """Print an inference job."""
    click.echo(repr(job_options.infer_job(values)))


@click.command()
@click.option("--seconds", type=int)
@job_options.either_options
def either(**values: Any) -> None:
    """Print a job of either kind."""
    job_options.check_kind(values)
    click.echo(repr(job_options.infer_job(values) if values["infer"] else job_options.train_job(values)))


def call(command: click.Command, line: str) -> Result:
    return CliRunner().invoke(command, line.split())


def job(command: click.Command, line: str) -> str:
    """What a command that must work made of its options."""
    done = call(command, line)
    assert done.exit_code == 0, done.output
    return done.output.strip()


def test_nothing_typed_is_the_default_job() -> None:
    """The options' defaults are the fields'."""
    assert job(train, "") == job(either, "") == repr(TrainJob())
    assert job(infer, "") == job(either, "--infer") == repr(InferJob())


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("--seq 7 --batch 3", {"seq_len": 7, "batch": 3}),
        ("--seq-len 4k", {"seq_len": 4096}),
        ("--precision amp-bf16 --attention eager", {"precision": "amp-bf16", "attention": "eager"}),
        ("--padding --no-dropout", {"padding": True, "dropout": False}),
        ("--no-padding --dropout", {}),
        ("--packing", {"packing": True}),
        ("--checkpointing reentrant --checkpoint-every 2", {"checkpointing": "reentrant", "checkpoint_every": 2}),
        ("--activation-offload trl", {"activation_offload": "trl"}),
        ("--optim sgd --implementation fused", {"optimizer": "sgd", "implementation": "fused"}),
        ("--optimizer none", {"optimizer": "none"}),
        ("--accumulation 4", {"accumulation": 4}),
        ("--grad-accum 4", {"accumulation": 4}),
        ("--clip", {"clip_gradients": True}),
        ("--no-clip --hold-logits --set-to-none --no-use-cache --no-fp32-outputs", {}),
        ("--drop-logits", {"hold_logits": False}),
        ("--fp32-outputs --use-cache", {"fp32_outputs": True, "use_cache": True}),
        ("--first-step", {"steady": False}),
        ("--keep-gradients", {"set_to_none": False}),
    ],
)
def test_spellings_for_training(line: str, changes: dict[str, Any]) -> None:
    """Each spelling sets its field, alone and where both kinds of job are taken."""
    assert job(train, line) == job(either, line) == repr(TrainJob(**changes))


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("--context 7 --concurrency 3", {"seq_len": 7, "batch": 3}),
        ("--cache quantized --cache-bits 2", {"cache": "quanto", "cache_bits": 2}),
        ("--decode 2 --cache static --max-cache-len 99", {"decode": 2, "cache": "static", "max_cache_len": 99}),
        ("--logits-to-keep 0 --precision fp16", {"logits_to_keep": 0, "precision": "fp16"}),
        ("--attention math --padding", {"attention": "math", "padding": True}),
    ],
)
def test_spellings_for_inference(line: str, changes: dict[str, Any]) -> None:
    """Each spelling sets its field, alone and after --infer."""
    assert job(infer, line) == job(either, f"--infer {line}") == repr(InferJob(**changes))


def test_every_field_has_one_option_with_its_choices() -> None:
    """A field that is new in job.py needs only its sentence; shared fields must have the same default."""
    for kind, command in ((TrainJob, train), (InferJob, infer)):
        options = {option.name: option for option in command.params}
        hints = get_type_hints(kind)
        assert list(options) == [field.name for field in fields(kind)] == list(job_options.HELP[kind])
        for name, option in options.items():
            assert tuple(getattr(option.type, "choices", ())) == get_args(hints[name])
    both = {field.name: field.default for field in fields(TrainJob)}
    for field in fields(InferJob):
        assert both.get(field.name, field.default) == field.default


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--decode 2", "--decode says nothing about training"),
        ("--cache static", "--cache says nothing about training"),
        ("--infer --optim adamw", "--optim says nothing about inference"),
        ("--infer --first-step", "--steady says nothing about inference"),
        ("--infer --precision amp-bf16", "precision cannot be 'amp-bf16'"),
        ("--batch 0", "batch cannot be 0"),
        ("--seq 99999999999999999999", "seq_len cannot be 99999999999999999999"),
    ],
)
def test_what_no_job_has_is_refused(line: str, says: str) -> None:
    """An option of the other kind is not ignored, even with its default value; other options are not minded."""
    done = call(either, f"--seconds 3 {line}")
    assert isinstance(done.exception, UsageError)
    assert says in str(done.exception)


@pytest.mark.parametrize("line", ["--attention fast", "--batch many", "--padding yes"])
def test_what_is_no_value_is_click_s_business(line: str) -> None:
    """Exit 2, and the choices are named."""
    assert call(train, line).exit_code == 2


def test_help_shows_defaults() -> None:
    """Every default is printed."""
    text = call(either, "--help").output
    assert text.count("[default:") >= len({field.name for kind in (TrainJob, InferJob) for field in fields(kind)}) - 4
    for default in ("2048", "bf16", "flash", "adamw", "foreach", "dynamic", "hold-logits"):
        assert default in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train --rank 64", ["--rank 64"]),
        ("train --active-layers 3 --method lora --rank 64", ["--active-layers 3"]),
        ("train --rank 8", []),
        ("serve --cache-bits 2 --max-cache-len 4k", ["--max-cache-len 4096", "--cache-bits 2"]),
        ("serve --cache-bits 2 --cache quanto", []),
    ],
)
def test_what_is_typed_in_vain_is_said_so(capsys: pytest.CaptureFixture[str], line: str, said: list[str]) -> None:
    """An option of something that the job has not is no silent one; a default that is typed is not minded."""
    command, *options = line.split()
    found = as_json(capsys, command, "smollm2-135m", *options, "--seq" if command == "train" else "--context", "128")
    warned = [one.removesuffix(" changes nothing in this job.") for one in found["warnings"] if "nothing in" in one]
    assert warned == said
