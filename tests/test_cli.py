"""The command line as people and programs use it: output, exit codes, and errors without tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oomph.cli import main
from tests.configs import LLAMA_3_8B

ROOT = Path(__file__).parents[1]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    with pytest.raises(SystemExit) as stopped:
        main(args)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return int(stopped.value.code or 0), out, err


def as_json(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    """The parsed JSON of a command that must work."""
    code, out, _ = run(capsys, *args, "--json")
    assert code in (0, 1)
    return json.loads(out)


def test_a_name_and_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    """The first command of the README: a verdict with its margin, formats side by side, bytes by block."""
    code, out, _ = run(capsys, "llama-3-8b", "--gpu", "rtx-4090")
    assert code == 0
    for text in ("Fits", "14.96 GiB", "q4_k_m", "attention", "16,060,522,496"):
        assert text in out


def test_what_does_not_fit_exits_1_and_says_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    """70B in bf16 on 24 GB: no, and the smallest change is named if there is one."""
    code, out, _ = run(capsys, "llama-3-70b", "--gpu", "rtx-4090")
    assert code == 1
    assert "Does not fit" in out
    code, out, _ = run(capsys, "llama-3-70b", "--gpu", "a100")
    assert code == 1
    assert "smallest change" in out


def test_json_is_exact_and_follows_the_committed_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes are integers that add up, every group is there, and the schema in docs/ describes it."""
    from jsonschema import validate

    found = as_json(capsys, "llama-3-8b", "--gpu", "rtx-4090")
    validate(found, json.loads((ROOT / "docs" / "ledger.schema.json").read_text()))
    assert found["model"]["params"] == 8030261248
    assert found["total_bytes"] == 16060522496 == sum(item["bytes"] for item in found["items"])
    assert found["safe_bytes"] == sum(item["safe_bytes"] for item in found["items"]) >= found["total_bytes"]
    assert sum(found["groups"].values()) == found["total_bytes"]
    assert found["verdict"]["fits"] is True


def test_without_a_gpu_there_is_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    """Weighing alone is an answer: exit 0, verdict null."""
    assert as_json(capsys, "llama-3-8b")["verdict"] is None


def test_formats_asked_for_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    """The first --format is the ledger's, all of them are compared."""
    found = as_json(capsys, "llama-3-8b", "--format", "nf4", "--format", "q4_k_m")
    assert found["job"]["format"] == "nf4"
    assert [row["format"] for row in found["alternatives"]] == ["nf4", "q4_k_m"]


def test_a_config_file_a_folder_and_stdin_are_models(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path to config.json, its folder and '-' give the same answer as the name."""
    import io

    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_3_8B))
    answers = [as_json(capsys, str(path)), as_json(capsys, str(tmp_path))]
    text = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(sys, "stdin", text)
    answers.append(as_json(capsys, "-"))
    assert {answer["total_bytes"] for answer in answers} == {16060522496}


def test_a_typo_suggests_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown names exit 2 with close matches, in JSON too."""
    code, _, err = run(capsys, "lama-3-8b")
    assert code == 2
    assert "llama-3-8b" in err
    code, out, _ = run(capsys, "lama-3-8b", "--json")
    assert code == 2
    assert json.loads(out)["error"]["exit_code"] == 2


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("llama-3-8b", "--gpu", "rtx-4900"), 2),
        (("llama-3-8b", "--format", "q4_k_x"), 2),
        (("llama-3-8b", "--json", "--markdown"), 2),
        (("llama-3-8b", "--nonsense"), 2),
        (("./nothing/config.json",), 4),
        (("rules", "llama-3-8b", "--params", "many"), 2),
        (("models", "no-such-model-at-all"), 2),
        (("gpus", "no-such-gpu-at-all"), 2),
    ],
)
def test_what_is_wrong_is_said_on_stderr(capsys: pytest.CaptureFixture[str], args: tuple[str, ...], code: int) -> None:
    """A clear error and the right exit code."""
    found, _, err = run(capsys, *args)
    assert found == code
    assert err.strip()


def test_markdown_and_explain(capsys: pytest.CaptureFixture[str]) -> None:
    """Markdown is a table to paste; --explain names every tensor and every source."""
    code, out, _ = run(capsys, "llama-3-8b", "--markdown")
    assert code == 0
    assert "| bf16 | 14.96 GiB |" in out
    code, out, _ = run(capsys, "llama-3-8b", "--explain")
    assert "CUDA context" in out
    assert "derived" in out


def test_rules_of_thumb_for_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    """`oomph rules` prints the article's numbers for the article's round count."""
    found = as_json(capsys, "rules", "command-r-plus", "--params", "104e9")
    by_key = {row["key"]: row["bytes"] / 2**30 for row in found["rules"]}
    assert by_key["inference"] == 2.25
    assert by_key["training"] == 162
    assert round(by_key["bf16"], 2) == 193.72


def test_rules_of_thumb_need_a_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Names and shapes in a file do not tell the heads: refused, not taken as none."""
    from tests.sources.files import llama_shapes, safetensors_file

    (tmp_path / "x.safetensors").write_bytes(safetensors_file(llama_shapes()))
    code, _, err = run(capsys, "rules", str(tmp_path / "x.safetensors"))
    assert code == 3
    assert "attention heads" in err


@pytest.mark.parametrize("name", ["q4_k_m", "Q4_K_M", "nf4", "gptq-4bit-g128"])
def test_the_verdict_and_the_table_say_the_same(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """On one device a format takes what its tensors add up to, however it varies from layer to layer."""
    found = as_json(capsys, "llama-3-8b", "--gpu", "8GiB", "--format", name)
    verdict, row = found["verdict"], found["alternatives"][0]
    assert verdict["margin_bytes"] == 8 * 2**30 - found["safe_bytes"]
    assert row["format"] == found["job"]["format"] == name.lower()
    assert (row["total_bytes"], row["safe_bytes"]) == (found["total_bytes"], found["safe_bytes"])
    assert f"{found['total_bytes'] / 2**30:.2f} GiB" in verdict["sentence"]


@pytest.mark.parametrize(("name", "says"), [("gptq", "gptq-4bit-g128"), ("zzz", "q4_k_m"), ("nf5", "nf4")])
def test_an_unknown_format_names_some_that_are(capsys: pytest.CaptureFixture[str], name: str, says: str) -> None:
    """A newcomer learns what can be written, whatever was written."""
    code, _, err = run(capsys, "llama-3-8b", "--format", name)
    assert code == 2
    assert says in err


def test_models_and_gpus_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Both lists can be searched and are long enough to be useful."""
    code, out, _ = run(capsys, "models", "--json")
    assert code == 0
    assert len(json.loads(out)) >= 150
    code, out, _ = run(capsys, "gpus", "--json")
    assert len(json.loads(out)) >= 150
    assert "mixtral-8x7b" in run(capsys, "models", "mixtral")[1]
    assert "rtx-4090" in run(capsys, "gpus", "4090")[1]


def test_help_shows_the_two_ways_and_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """--help is where newcomers look: options of weighing, commands, examples; no arguments means help."""
    for args in (("--help",), ("-h",), ()):
        code, out, _ = run(capsys, *args)
        assert code == 0
        for text in ("MODEL", "--gpu", "--format", "models", "rules", "oomph llama-3-8b --gpu rtx-4090"):
            assert text in out


def test_json_imports_nothing_heavy() -> None:
    """The JSON path loads none of torch, numpy, huggingface_hub, rich, transformers."""
    code = (
        "import sys; from oomph.cli import main\n"
        "try: main(['llama-3-8b', '--gpu', 'rtx-4090', '--json'])\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        "names = {'torch', 'numpy', 'huggingface_hub', 'rich', 'transformers', 'requests', 'httpx'}\n"
        "heavy = names & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hostile_names_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters of a reference are not echoed."""
    code, _, err = run(capsys, "x\x1b]0;gone\x07")
    assert code in (2, 4)
    assert "\x1b" not in err


def test_python_m_oomph_is_the_command() -> None:
    """Where scripts are not on the PATH the module is called; its exit code and its name in the help are the same."""
    command = [sys.executable, "-m", "oomph", "llama-3-70b", "--gpu", "rtx-4090"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    shown = subprocess.run([sys.executable, "-m", "oomph", "--help"], capture_output=True, check=True, text=True).stdout
    assert shown.startswith("Usage: oomph")
