"""Whatever stdout is: narrow, closed, full, a pipe that is left, an old encoding, or fed with hostile names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources.files import safetensors_file

OOMPH = [sys.executable, "-c", "from oomph.cli import main; main()"]


def run(*args: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """One command in a process of its own; `shell` is what stands behind it on the command line."""
    env = {**os.environ, "COLUMNS": "80", **environment}
    if not shell:
        return subprocess.run([*OOMPH, *args], capture_output=True, env=env, check=False)
    line = ["bash", "-c", f'set -o pipefail; "$0" "$@" {shell}', *OOMPH, *args]
    return subprocess.run(line, capture_output=True, env=env, check=False)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk"])
@pytest.mark.parametrize(
    "args",
    [("llama-3-8b", "--gpu", "rtx-4090"), ("models",), ("rules", "llama-3-8b"), ("llama-3-8b", "--explain")],
    ids=" ".join,
)
def test_an_old_encoding_gets_what_it_can_show(args: tuple[str, ...], encoding: str) -> None:
    """A Windows or C terminal without block characters sees the same table, drawn in its own characters."""
    done = run(*args, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not done.stderr


def test_json_is_json_in_every_encoding() -> None:
    """What an encoding lacks is escaped as JSON escapes it, so nothing is lost."""
    found = [
        json.loads(run("rules", "llama-3-8b", "--json", PYTHONIOENCODING=name).stdout) for name in ("ascii", "utf-8")
    ]
    assert found[0] == found[1]
    refused = run("modèle", "--json", PYTHONIOENCODING="ascii")
    assert refused.returncode == 2
    assert "modèle" in json.loads(refused.stdout)["error"]["problem"]


@pytest.mark.parametrize(
    "args", [("models",), ("models", "--json"), ("llama-3-8b", "--markdown"), ("gpus",)], ids=" ".join
)
def test_a_reader_may_leave_early(args: tuple[str, ...]) -> None:
    """`oomph models | head -1` is no error."""
    done = run(*args, shell="| head -c 1")
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@pytest.mark.parametrize("shell", ["| true", ">&-"])
@pytest.mark.parametrize("form", [(), ("--json",), ("--markdown",)], ids=str)
def test_the_verdict_is_the_exit_code_though_nobody_reads(shell: str, form: tuple[str, ...]) -> None:
    """A script that asks only for the exit code gets it: 0 fits, 1 does not."""
    for gpu, code in (("rtx-4090", 0), ("4GiB", 1)):
        done = run("llama-3-8b", "--gpu", gpu, *form, shell=shell)
        assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("form", [(), ("--json",)], ids=str)
def test_a_full_disk_is_an_error_with_a_reason(form: tuple[str, ...]) -> None:
    """Output that cannot be written is a failure of the file: exit 4."""
    done = run("llama-3-8b", *form, shell="> /dev/full")
    assert done.returncode == 4
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def test_stdin_may_be_closed() -> None:
    """`oomph -` without any standard input is a source that cannot be read."""
    done = run("-", shell="<&-")
    assert done.returncode == 4
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("columns", ["0", "1", "20", "40"])
def test_a_narrow_terminal_keeps_numbers_whole(columns: str) -> None:
    """A terminal that says it has no columns still gets an answer, and no number is broken in two."""
    text = run("llama-3-8b", "--gpu", "rtx-4090", COLUMNS=columns).stdout.decode()
    for number in ("14.96 GiB", "4.58 GiB", "15.59 GiB"):
        assert number in text


@pytest.mark.parametrize("columns", ["80", "100", "200"])
def test_the_catalogue_shows_parameters_and_repository(columns: str) -> None:
    """However wide the terminal, these stay; other spellings of a name are what gives way."""
    text = run("models", "llama-3-8b", COLUMNS=columns).stdout.decode()
    assert "8.03B" in text
    assert "meta-llama/" in text


def test_usage_errors_are_json_for_programs() -> None:
    """Whatever is wrong, --json prints JSON."""
    for args in (("llama-3-8b", "--json", "--nonsense"), ("--json",), ("llama-3-8b", "--json", "--markdown")):
        done = run(*args)
        assert done.returncode == 2
        assert json.loads(done.stdout)["error"]["exit_code"] == 2


@pytest.mark.parametrize("form", [(), ("--explain",), ("--markdown", "--explain")], ids=str)
def test_tensor_names_are_text(tmp_path: Path, form: tuple[str, ...]) -> None:
    """Names in a file are neither markup nor control characters, whoever wrote them."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(
        safetensors_file({"[/red].\x1b[2J.\x9b2J\n# x|y.weight": ("BF16", [64, 64]), "[bold].w": ("BF16", [8])})
    )
    done = run(str(path), *form)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert not {"\x1b", "\x9b"} & set(text)
    assert "\n# x" not in text


@pytest.mark.parametrize("columns", [40, 60, 80, 97, 200])
def test_a_bar_is_one_line(columns: int) -> None:
    """However its parts are rounded; where nothing stays free it is full."""
    for args in (("train", "phi-4", "--method", "qlora", "--gpu", "rtx-4070"), ("llama-3-8b", "--format", "q4_k_m")):
        lines = run(*args, COLUMNS=str(columns), PYTHONIOENCODING="utf-8").stdout.decode().splitlines()
        (bar,) = [line for line in lines if line and not line.strip("█")]
        assert len(bar) == min(columns, 100)


@pytest.mark.parametrize("columns", [60, 80])
def test_names_and_options_are_not_cut_within_words(columns: int) -> None:
    """A tensor's name breaks behind a dot, an option at a blank: both can be read and copied."""
    shown = run("train", "phi-4", "--method", "qlora", "--gpu", "rtx-4070", COLUMNS=str(columns)).stdout.decode()
    assert re.search(r"\bbase_layer\b", shown)
    assert "gate_up_proj." in shown
    shown = run("plan", "llama-3-8b", "train", "--gpu", "rtx-4090", COLUMNS=str(columns)).stdout.decode()
    assert re.search(r"^  --checkpointing\s", shown, re.MULTILINE)
    assert "  --optimizer-in-backward" in shown
    assert max(map(len, shown.splitlines())) <= columns


def test_where_nothing_fits_the_plan_is_named() -> None:
    """The largest value is 0: what would help is another command."""
    done = run("max", "llama-3-8b", "train", "--gpu", "rtx-4090")
    assert done.returncode == 1
    assert b"oomph plan, with the same words" in done.stdout
