"""`oomph plan` and `oomph max` as people and programs use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import validate

from tests.test_cli import as_json, run

DOCS = Path(__file__).parents[2] / "docs"
TOO_LARGE = ("plan", "qwen2.5-0.5b", "train", "--gpu", "t4", "--seq", "2048", "--batch", "4")


def schema(name: str) -> dict:
    return json.loads((DOCS / f"{name}.schema.json").read_text())


def test_a_plan_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, what would make it fit with the options to type, what that costs, and where that is known from."""
    code, out, _ = run(capsys, *TOO_LARGE)
    assert code == 1
    for text in (
        "Does not fit",
        "The cheapest that fits",
        "--batch 1 --accumulation 4",
        "The same gradient",
        "https://",
    ):
        assert text in out


def test_the_options_shown_make_it_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """What is advised is typed as it is shown, and then exits 0."""
    found = as_json(capsys, *TOO_LARGE)
    validate(found, schema("plan"))
    change = found["combination"] or found["changes"][0]
    assert change["status"] == "fits"
    from oomph.cli.job_options import spelled
    from oomph.job import TrainJob

    options = [spelled(TrainJob, each["input"], each["value"]) for part in change["parts"] for each in part["say"]]
    words = [word for option in options for word in option.split()]
    code, _, _ = run(capsys, "train", *TOO_LARGE[1:2], *TOO_LARGE[3:], *words)
    assert code == 0
    shown = as_json(capsys, "train", *TOO_LARGE[1:2], *TOO_LARGE[3:], *words)
    assert {key: shown["job"][key] for key in change["job"]} == change["job"]
    assert shown["figures"][2] == change["device"]


def test_a_plan_for_a_job_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0; how large it could be, and what it could have."""
    found = as_json(capsys, "plan", "gpt2", "--gpu", "t4", "--seq", "128", "--checkpointing", "reentrant")
    validate(found, schema("plan"))
    assert found["verdict"]["fits"]
    assert [limit["over"] for limit in found["room"]] == ["batch", "seq"]
    code, out, _ = run(capsys, "plan", "gpt2", "--gpu", "t4", "--seq", "128", "--checkpointing", "reentrant")
    assert code == 0
    assert "no gradient checkpointing" in out
    assert "made for 1024 tokens" in " ".join(out.split())


def test_several_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    """One row each; 0 if any holds the job."""
    command = ("plan", "gpt2", "train", "--gpu", "t4, h100,1GiB", "--seq", "512", "--batch", "8")
    code, out, _ = run(capsys, *command)
    assert code == 0
    assert out.count("GiB") >= 9
    found = as_json(capsys, *command)
    validate(found, schema("plan-gpus"))
    assert [each["verdict"]["status"] for each in found["devices"]][1:] == ["fits", "too_big"]
    assert run(capsys, "plan", "gpt2", "--gpu", "1GiB,1100MiB")[0] == 1


def test_the_largest(capsys: pytest.CaptureFixture[str]) -> None:
    """A number, the verdict on one more, and exit 1 where not even one fits."""
    found = as_json(capsys, "max", "gpt2", "train", "--gpu", "t4", "--over", "batch", "--seq", "512")
    validate(found, schema("max"))
    (limit,) = found["limits"]
    assert limit["at"]["verdict"]["fits"]
    assert not limit["beyond"]["verdict"]["fits"]
    assert limit["beyond"]["job"]["batch"] == limit["value"] + 1
    code, out, _ = run(capsys, "max", "gpt2", "serve", "--gpu", "t4", "--context", "64")
    assert code == 0
    assert "sequences at a time" in out
    code, out, _ = run(capsys, "max", "llama-3-8b", "--gpu", "t4", "--over", "batch")
    assert code == 1
    assert "Not even" in out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("plan", "gpt2"), 2, "--gpu"),
        (("plan", "gpt2", "serve", "--gpu", "t4"), 2, "serve"),
        (("plan", "gpt2", "--gpu", "t44"), 2, "t4"),
        (("plan", "gpt2", "--gpu", ","), 2, "Name one"),
        (("plan", "gpt2", "--gpu", "2xt4"), 3, "several GPUs"),
        (("plan", "deepseek-moe-16b-base", "--gpu", "t4"), 3, "oomph trace"),
        (("max", "gpt2", "--gpu", "t4,h100"), 2, "2 devices"),
        (("max", "gpt2", "--gpu", "t4", "--over", "bach"), 2, "batch"),
        (("max", "gpt2", "serve", "--gpu", "t4", "--optim", "sgd"), 2, "inference"),
        (("max", "gpt2", "--gpu", "t4", "--batch", "0"), 2, "batch"),
    ],
)
def test_what_is_wrong_is_said(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, says: str
) -> None:
    """One clear error with the exit code of its kind."""
    found, _, err = run(capsys, *words)
    assert found == code
    assert says in err
