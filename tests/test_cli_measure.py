"""`oomph measure` as people use it: with a stand-in for the GPU, without any, stopped and taken up again."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from oomph.referee import isolated, suites
from tests.referee import models
from tests.test_cli import run

ROOT = Path(__file__).parents[1]
# A process in which rows are told by a stand-in and the small suite is three of them.
STAND_IN = """
from oomph.cli import main
from oomph.job import TrainJob
from oomph.referee import measure, suites
from oomph.referee.measure import Entry
from tests.referee.models import LLAMA
measure.ROW = "tests.referee.told_row"
suites.SUITES["small"] = lambda: [Entry(f"tiny {n}", "tiny", LLAMA, TrainJob(batch=n, seq_len=5)) for n in range(1, 4)]
main()
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are measured on the CPU, in this process: tests/referee/test_measure.py has those of others."""
    from tests.referee.cpu_row import Here

    monkeypatch.setattr(isolated, "Worker", Here)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # libraries keep the stderr of the test that loaded them


@pytest.fixture
def config(tmp_path: Path) -> str:
    """The config.json of a tiny model."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**models.LLAMA, "tie_word_embeddings": False}))
    return str(path)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "Name either"),
        (("gpt2", "--suite", "small", "-o", "x"), "Name either"),
        (("--suite", "small"), "needs a file"),
        (("--suite", "small", "-o", "x", "--seq", "7"), "--seq and --suite"),
        (("--suite", "small", "-o", "x", "--infer"), "--infer and --suite"),
        (("--suite", "small", "-o", "x", "--json"), "--json and --suite"),
        (("--suite", "small", "-o", "x", "--framework", "trl"), "--framework and --suite"),
        (("gpt2", "--infer", "--framework", "trl"), "Leave --framework and --config out"),
        (("gpt2", "--framework", "axolotle"), "axolotl"),
        (("--suite", "huge", "-o", "x"), "huge"),
        (("lama-3-8b",), "llama-3-8b"),
        (("gpt2", "--batch", "0"), "batch cannot be 0"),
        (("gpt2", "--decode", "1"), "--infer"),
        (("gpt2", "--attention", "quick"), "flash"),
    ],
)
def test_usage(capsys: pytest.CaptureFixture[str], args: tuple[str, ...], says: str) -> None:
    """What makes no sense is said before any process is started: exit 2."""
    code, _, err = run(capsys, "measure", *args)
    assert code == 2
    assert says in err


def test_suites_are_those_of_the_referee() -> None:
    """The choices are written twice, so that help needs no catalogue."""
    from oomph.cli.measure import SUITES

    assert tuple(suites.SUITES) == SUITES


def test_weighing_does_not_load_measuring() -> None:
    """Commands with a module of their own cost the others nothing."""
    code = (
        "import sys; from oomph.cli import main\n"
        "try: main(['llama-3-8b', '--json'])\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        "assert not {name for name in sys.modules if name.startswith(('oomph.cli.measure', 'oomph.job'))}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_without_a_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It says so and how to go on: exit 4, in JSON too, and no file is made."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    path = tmp_path / "rows.jsonl"
    code, _, err = run(capsys, "measure", "gpt2", "-o", str(path))
    assert code == 4
    assert "no GPU" in err
    assert "torch.cuda.is_available()" in err
    code, out, _ = run(capsys, "measure", "gpt2", "--json")
    assert json.loads(out)["error"]["exit_code"] == code == 4
    assert not path.exists()


@pytest.mark.slow
def test_one_job(stand_in: None, capsys: pytest.CaptureFixture[str], config: str, tmp_path: Path) -> None:
    """A table of phases for people, the row as JSON for programs, appended to a file once."""
    path, folder = tmp_path / "rows.jsonl", tmp_path / "snapshots" / "new"
    args = ["measure", config, "--seq", "37", "--batch", "2", "--optim", "sgd", "-o", str(path)]
    code, out, err = run(capsys, *args, "--snapshot", str(folder))
    assert code == 0
    (row,) = rows(path)
    for text in ("optimizer step", "most allocated", f"{row['measured']['peak_allocated_bytes']:,} bytes", "stand-in"):
        assert text in out
    assert "1 of 1 rows to measure" in err
    assert (folder / row["snapshot"]).is_file()
    assert row["job"]["optimizer"] == "sgd"
    code, out, err = run(capsys, *args)
    assert (code, out) == (0, "")
    assert "0 of 1 rows" in err
    code, out, _ = run(capsys, *args[:-2], "--json")
    assert json.loads(out)["measured"] == row["measured"]


@pytest.mark.slow
def test_one_job_of_a_framework(
    stand_in: None, capsys: pytest.CaptureFixture[str], config: str, tmp_path: Path
) -> None:
    """The row has the program's defaults and the model of its config; what was taken and not read is told."""
    path = tmp_path / "axolotl.json"
    path.write_text(json.dumps({"base_model": config, "micro_batch_size": 3, "sequence_len": 16, "shiny": 1}))
    code, out, err = run(capsys, "measure", "--config", str(path), "--optim", "sgd", "--json")
    job = json.loads(out)["job"]
    assert (code, job["batch"], job["seq_len"], job["autocast"], job["optimizer"]) == (0, 3, 16, True, "sgd")
    assert "axolotl: precision=bf16" in err
    assert "shiny" in err


@pytest.mark.slow
def test_exit_codes_of_one_job(
    stand_in: None, capsys: pytest.CaptureFixture[str], config: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Memory that runs out is 1, as in every verdict; a job that fails is 3."""
    monkeypatch.setenv("OOMPH_TEST_DEVICE_BYTES", "5000000")
    code, out, _ = run(capsys, "measure", config, "--infer", "--context", "100", "--concurrency", "9")
    assert code == 1
    assert "Out of memory in before: prefill" in out
    odd = tmp_path / "odd.json"
    odd.write_text(json.dumps({**models.LLAMA, "model_type": "qwen3", "hidden_act": "no-such-activation"}))
    code, out, _ = run(capsys, "measure", str(odd), "--seq", "5")
    assert code == 3
    assert "Failed in before: build" in out


@pytest.mark.slow
def test_a_suite_can_be_stopped_and_taken_up_again(tmp_path: Path) -> None:
    """Ctrl-C leaves a file of whole rows; the same command does the others only; the order is the suite's."""
    path = tmp_path / "rows.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    command = [sys.executable, "-c", STAND_IN, "measure", "--suite", "small", "-o", str(path)]
    process = subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in the background lets its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while (not path.exists() or path.read_bytes().count(b"\n") < 1) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the rows' processes too
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Stopped." in err
    assert "Traceback" not in err
    first = rows(path)
    assert 1 <= len(first) < 3
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{3 - len(first)} of 3 rows to measure" in done.stderr
    assert [row["name"] for row in rows(path)] == [f"tiny {n}" for n in range(1, 4)]
    assert rows(path)[: len(first)] == first
    assert {row["status"] for row in rows(path)} == {"ok"}
