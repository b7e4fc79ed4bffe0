"""Pasted commands whose model is not here: `oomph serve` takes it by its name, and says so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oomph.engines.command_line import read_text
from oomph.errors import UnsupportedError, UsageError
from tests.test_cli import run


def _answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code, out, err = run(capsys, "serve", "--json", "--offline", "--gpu", "rtx-4090", *words)
    assert code in (0, 1), err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize(
    ("words", "model", "fmt", "said"),
    [
        ("llama-server -m /models/Qwen3-14B-Q5_K_M.gguf -c 4096", "qwen3-14b", "q5_k_m", "as the name says"),
        ("llama-server -hf org/Qwen3-14B-GGUF:IQ4_XS -c 4096", "qwen3-14b", "iq4_xs", "by its name, qwen3-14b"),
        ("ollama run llama3.1:8b", "llama-3.1-8b", "q4_k_m", "Ollama's library"),
        ("vllm serve org/Qwen3-14B-AWQ", "qwen3-14b", "awq", "of the catalogue"),
    ],
)
def test_a_pasted_name_is_taken_by_what_it_says(
    capsys: pytest.CaptureFixture[str], words: str, model: str, fmt: str, said: str
) -> None:
    """Neither file nor repository is here; the printed command, pasted, has the same answer."""
    found = _answer(capsys, "--", *words.split())
    assert (found["job"]["model"], found["job"]["format"]) == (model, fmt)
    assert any(said in each for each in found["assumptions"])
    again = _answer(capsys, "--", *found["command"])
    assert again["total_bytes"] == found["total_bytes"]


def test_a_typed_model_takes_the_type_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    """It was passed over, and the weights taken as they are published."""
    words = ("--", "llama-server", "-m", "/models/mine.Q6_K.gguf", "-c", "4096")
    found = _answer(capsys, "qwen3-14b", *words)
    assert found["job"]["format"] == "q6_k"
    typed = _answer(capsys, "qwen3-14b", "--format", "q8_0", *words)
    assert typed["job"]["format"] == "q8_0"


def test_a_variable_that_moves_memory_is_refused_by_name() -> None:
    """Not called unknown; of some only one value is."""
    with pytest.raises(UnsupportedError, match="OLLAMA_MAX_LOADED_MODELS is not modelled: several"):
        read_text("OLLAMA_MAX_LOADED_MODELS=2 ollama run m")
    with pytest.raises(UnsupportedError, match="VLLM_USE_V1 is not modelled"):
        read_text("VLLM_USE_V1=0 vllm serve m")
    assert read_text("VLLM_USE_V1=1 vllm serve m").passed_over == ("VLLM_USE_V1",)


def test_a_program_that_is_not_read_names_its_like() -> None:
    """The whole list of what is read was printed."""
    with pytest.raises(UsageError, match="Did you mean llama-server"):
        read_text("llama-cli -m x.gguf")
    with pytest.raises(UsageError) as caught:
        read_text("nginx -c x")
    assert len(str(caught.value)) < 400
    assert read_text("python3 -m mlx_lm.server --model m").engine.name == "mlx"


def test_a_slip_behind_an_engine_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """It was called no flag of the engine; a map in another kind of file an argument too many."""
    code, _, err = run(capsys, "serve", "qwen3-32b", "--engine", "vllm", "--", "vllm", "serv", "m")
    assert code == 2
    assert "Did you mean vllm serve" in err
    code, _, err = run(capsys, "serve", "qwen3-32b", "--engine", "vllm", "--gpu", "h100", "--map", "x.pdf")
    assert code == 2
    assert "names no kind of drawing" in err


def test_plain_weights_of_a_quantised_model_are_another_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """The command named the repository, whose weights are in mxfp4."""
    found = _answer(capsys, "gpt-oss-20b", "--engine", "vllm", "--format", "bf16", "--context", "4k")
    again = _answer(capsys, "--", *found["command"])
    assert again["job"]["format"] == "bf16"
    assert again["total_bytes"] == found["total_bytes"]
