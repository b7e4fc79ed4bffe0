"""`oomph reconcile` on the command line: what it prints, its exit codes, and that hostile logs are only text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from oomph.cli.app import cli
from tests.engines.llamacpp import tiny

LOGS = Path(__file__).parent / "logs"
TRAIN = ("--", "train", "llama-3-8b", "--seq", "512", "--optim", "sgd")


def _run(*args: str, text: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["reconcile", *args], input=text, standalone_mode=False)


def test_a_message_of_torch_is_taken_apart() -> None:
    """Without a job it still says where the memory went."""
    result = _run(str(LOGS / "torch_2.txt"))
    assert result.return_value == 0
    for words in ("tensors 74.10 GiB", "other processes 1.50 GiB", "expandable_segments", "-- train MODEL"):
        assert words in " ".join(result.output.split())


def test_a_training_job_is_held_against_it() -> None:
    """The job behind -- is estimated on the GPU whose size the message tells."""
    result = _run(str(LOGS / "torch_2.txt"), "--json", *TRAIN)
    found = json.loads(result.output)
    assert [row["name"] for row in found["rows"]] == ["allocated_gib", "reserved_gib", "process_gib"]
    assert found["job"]["optimizer"] == "sgd"
    assert 30 < found["rows"][0]["expected"] < 45  # weights and gradients in bf16, and a little
    assert result.return_value == 1  # the log has far more


def test_standard_input_and_a_driver_s_table() -> None:
    """nvidia-smi piped in."""
    result = _run("-", *TRAIN, text=(LOGS / "nvidia_smi.txt").read_text())
    assert result.return_value == 1
    assert "68.35 GiB" in result.output
    assert "off by" in result.output


def test_a_file_that_is_here_says_itself_how_it_is_stored(tmp_path: Path) -> None:
    """The type that the log names is for a model that is read by its name."""
    pytest.importorskip("gguf")
    tiny.write(tmp_path / "tiny.gguf", tiny.CONFIGS["llama"], "q8_0")
    text = (LOGS / "llamacpp.txt").read_text().replace("/m/qwen.gguf", str(tmp_path / "tiny.gguf"))
    result = _run("-", text=text)
    assert "No estimate" not in result.output
    assert "model gpu" in result.output


def test_what_lies_beside_the_model_and_is_not_here_is_left_out() -> None:
    """The model of another machine's log is known by its name, its draft and projector are not; that is said."""
    text = (LOGS / "llamacpp_draft.txt").read_text().replace("/m/model.gguf", "/m/Qwen3-0.6B-Q8_0.gguf")
    result = _run("-", "--offline", text=text)
    words = " ".join(result.output.split())
    assert "The estimate is without -md /m/draft.gguf" in words
    assert "kv cells 2,048 2,048 as expected" in words


def test_a_log_that_names_what_is_not_known_is_still_read() -> None:
    """The figures are there, and why there is no estimate."""
    text = "model weights take 1.00GiB; x\nnon-default args: {'model': '/nowhere/at all', 'max_model_len': 8192}\n"
    result = _run("-", "--offline", text=text)
    assert result.return_value == 0
    assert "1.00 GiB" in result.output
    assert "No estimate of what the log says was started" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("/nowhere/vllm.log",), "There is no file"),
        ((".",), "is not a file"),
        ((str(LOGS / "torch_2.txt"), "--", "train", "lama-3-8b"), "Did you mean"),
        ((__file__,), ""),
    ],
)
def test_what_cannot_be_read_is_said(args: tuple[str, ...], words: str) -> None:
    """Errors name the problem; no traceback."""
    result = _run(*args)
    assert result.exception is None or words in str(result.exception)


def test_escape_codes_of_a_log_do_not_reach_the_terminal() -> None:
    """A line that would clear the screen is text like any other."""
    result = _run("-", text="Model loading took 3.00 GiB memory \x1b[2J and model='\x1b]0;evil\x07'\n")
    assert "\x1b" not in result.output
    assert "3.00 GiB" in result.output
