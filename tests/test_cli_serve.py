"""`oomph serve` and `oomph max` with an engine, as people and programs use them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from jsonschema import validate

from tests.engines.fakes import fakes
from tests.test_cli import as_json, run

pytestmark = pytest.mark.usefixtures("fakes")
__all__ = ["fakes"]

DOCS = Path(__file__).parents[1] / "docs"
PAGED = ("serve", "llama-3-8b", "--engine", "paged", "--gpu", "rtx-4090")
TOO_MANY = (*PAGED, "--context", "8k", "--concurrency", "9")


def schema(name: str) -> dict:
    return json.loads((DOCS / f"{name}.schema.json").read_text())


def test_an_answer_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Verdict, what is there, the line the engine prints, its limits, what was assumed, how to start it."""
    code, out, _ = run(capsys, *PAGED, "--context", "2k", "--concurrency", "4")
    assert code == 0
    for text in (
        "4 x 2,048 tokens",
        "Fits: 4 x 2,048 tokens need 1.00 GiB",
        "key-value cache",
        "GPU KV cache size: 58,688 tokens",
        "At most concurrency 256",
        "a paged assumption",
        "$ paged serve meta-llama/Meta-Llama-3-8B",
    ):
        assert text in out


def test_what_does_not_fit_names_single_changes(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, each change with the words to type."""
    code, out, _ = run(capsys, *TOO_MANY)
    assert code == 1
    for text in ("Does not fit", "--kv-cache-dtype fp8", "--concurrency 7", "--gpu 2xrtx-4090", "--format fp8"):
        assert text in out
    assert run(capsys, *TOO_MANY, "--", "--kv-cache-dtype", "fp8")[0] == 0


def test_json_follows_the_committed_schema(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a verdict with changes, and of no verdict; bytes add up over devices."""
    found = as_json(capsys, *TOO_MANY)
    validate(found, schema("ledger"))
    assert found["served"]["changes"][0]["words"] == ["--kv-cache-dtype", "fp8"]
    assert found["command"] == ["paged", "serve", "meta-llama/Meta-Llama-3-8B"]
    split = as_json(capsys, "serve", "llama-3-8b", "-e", "split", "-g", "rtx-4090,rtx-3060", "--context", "4k")
    validate(split, schema("ledger"))
    assert [share["name"] for share in split["served"]["shares"]] == ["rtx-4090 0", "rtx-3060-12gb 1", "host"]
    assert sum(share["bytes"] for share in split["served"]["shares"]) == split["total_bytes"]
    unknown = as_json(capsys, "serve", "llama-3-8b", "--engine", "paged", "--context", "1k")
    validate(unknown, schema("ledger"))
    assert unknown["verdict"] is None


def test_unequal_devices_have_a_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    """In the order they were named."""
    code, out, _ = run(capsys, "serve", "llama-3-8b", "-e", "split", "-g", "rtx-3060,t4")
    assert code == 0
    assert out.index("rtx-3060-12gb 0") < out.index("t4 1") < out.index("host")


@pytest.mark.parametrize("form", ["--markdown", "--explain"])
def test_other_forms_say_the_same(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """Tables to paste; every item with its source."""
    code, out, _ = run(capsys, *TOO_MANY, form)
    assert code == 1
    for text in (
        "9 x 8,192 tokens need 9.00 GiB",
        "58,688 tokens",
        "paged serve meta-llama/Meta-Llama-3-8B",
        "9,663,676,416",
    ):
        assert text in out


COMMAND = "paged serve meta-llama/Meta-Llama-3-8B --max-model-len 4K --port 80"


def test_a_command_is_a_job(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind --, in a file, and on standard input; typed options win, and the model may be another."""
    code, out, _ = run(capsys, "serve", "--json", "--gpu", "h100", "--", *COMMAND.split())
    assert code == 0
    behind = json.loads(out)
    assert behind["job"]["context"] == 4096
    assert behind["model"]["name"] == "llama-3-8b"
    assert "--port" in behind["assumptions"][-1]
    file = tmp_path / "start.sh"
    file.write_text(f"#!/bin/bash\nexport CUDA_VISIBLE_DEVICES=0\n{COMMAND} \\\n  2>&1 | tee log\n")
    assert as_json(capsys, "serve", "--gpu", "h100", "--command", str(file)) == behind
    monkeypatch.setattr(sys, "stdin", io.StringIO(COMMAND))
    other = as_json(capsys, "serve", "qwen2.5-7b", "--gpu", "h100", "--context", "1k", "--command", "-")
    assert other["model"]["name"] == "qwen2.5-7b"
    assert other["job"]["context"] == 1024
    assert any("the command says" in text for text in other["assumptions"])


def test_requests_are_those_of_the_options_the_server_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Shorter ones than a flag allows are served, longer ones are not."""
    words = ("--gpu", "rtx-4090", "--", "paged", "serve", "llama-3-8b", "--max-model-len", "4096")
    _, out, _ = run(capsys, "serve", "--json", "--context", "1k", *words)
    found = json.loads(out)
    assert (found["job"]["context"], found["job"]["longest"]) == (1024, 4096)
    code, out, _ = run(capsys, "serve", "--context", "8k", *words)
    assert code == 1
    assert "8,192 is more than 4,096: --max-model-len 4096" in out
    _, out, _ = run(capsys, "max", "--over", "context", *words)
    assert "At most requests of 4,096 tokens: --max-model-len 4096; memory would do for 58,672" in " ".join(out.split())


def test_one_device_stands_for_as_many_as_the_command_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """By its flags, by the cards that are visible; of several named those."""
    for gpu, words, count in (
        ("h100", ["paged", "serve", "meta-llama/Meta-Llama-3-8B", "-tp", "2"], 2),
        ("h100", ["CUDA_VISIBLE_DEVICES=1,3", "paged", "serve", "llama-3-8b", "-tp", "2"], 2),
        ("h100,h100,t4", ["CUDA_VISIBLE_DEVICES=2", "paged", "serve", "llama-3-8b"], 1),
    ):
        _, out, err = run(capsys, "serve", "--json", "--gpu", gpu, "--", *words)
        assert json.loads(out)["device"]["count"] == count, err
    assert json.loads(out)["device"]["id"] == "t4"


def test_several_devices_share_each_layer(capsys: pytest.CaptureFixture[str]) -> None:
    """Unless a whole command says how many it takes: the others are idle, and that is said."""
    found = as_json(capsys, "serve", "llama-3-8b", "--engine", "paged", "--gpu", "2xh100")
    assert found["job"]["tensor_parallel"] == 2
    assert "--tensor-parallel-size 2: all GPUs that are named" in found["assumptions"]
    _, out, _ = run(capsys, "serve", "--json", "--gpu", "2xh100", "--", "paged", "serve", "llama-3-8b")
    found = json.loads(out)
    assert found["device"]["count"] == found["job"]["tensor_parallel"] == 1
    assert "1 of 2 GPUs are idle" in found["assumptions"]


def test_largest_values_of_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    """In words and as JSON, one input or both usual ones."""
    code, out, _ = run(capsys, "max", "llama-3-8b", "--engine", "Paged", "--gpu", "rtx-4090")
    assert code == 0
    assert "the model is made for 8,192 tokens; memory would do for 58,672" in out.replace("\n", "")
    assert "At most 7 requests at a time" in out
    found = as_json(capsys, "max", "llama-3-8b", "-e", "split", "-g", "rtx-3060", "--over", "gpu-layers")
    validate(found, schema("max"))
    assert (found["limits"][0]["over"], found["limits"][0]["value"]) == ("gpu-layers", 24)
    assert run(capsys, "max", "llama-3-8b", "-e", "paged", "-g", "rtx-3060")[0] == 1


def test_a_map_is_printed_written_and_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A table, JSON, and a drawing whose cells say in words what their colour says."""
    code, out, _ = run(capsys, *PAGED, "--map")
    assert code == 0
    assert "111%" in out
    assert "8,192" in out
    found = as_json(capsys, *PAGED, "--map")
    validate(found, schema("map"))
    assert found["status"][-1][-1] == "too_big"
    for name in ("map.svg", "map.html"):
        assert run(capsys, *PAGED, "--map", str(tmp_path / name))[0] == 0
    root = ElementTree.fromstring((tmp_path / "map.svg").read_text(encoding="utf-8"))
    tips = [one.text for one in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "8,192 tokens x 8: does not fit, 111% of the room" in tips
    page = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "Content-Security-Policy" in page


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("serve", "llama-3-8b", "--engine", "pagd"), 2, "paged"),
        (("serve", "lama-3-8b", "--engine", "paged"), 2, "llama-3-8b"),
        (("serve", "llama-3-8b", "--engine", "paged", "--", "--max-model-length", "8"), 2, "--max-model-len"),
        (("serve", "llama-3-8b", "--engine", "paged", "--", "stray"), 2, "stray"),
        (("serve", "llama-3-8b", "--engine", "paged", "--", "--cpu-offload-gb", "4"), 3, "not modelled"),
        (("serve", "llama-3-8b", "--engine", "paged", "--format", "q4_k_m"), 3, "does not load"),
        (("serve", "llama-3-8b", "--engine", "paged", "--decode", "4"), 2, "says nothing about paged"),
        (("serve", "llama-3-8b", "--engine", "split", "--", "paged", "serve", "x"), 2, "starts paged"),
        (("serve", "llama-3-8b", "--engine", "paged", "--map"), 2, "on a device"),
        (("serve", "llama-3-8b", "--engine", "paged", "-g", "t4", "--map", "/nowhere/x.svg"), 4, "cannot be written"),
        (("serve", "llama-3-8b", "--engine", "paged", "--gpu", "rtx-4900"), 2, "rtx-4090"),
        (("serve", "llama-3-8b", "--engine", "paged", "--context", "many"), 2, "8k"),
        (("serve", "llama-3-8b", "--map"), 2, "--engine vllm"),
        (("serve", "llama-3-8b", "--format", "fp8"), 2, "--engine vllm"),
        (("serve",), 2, "MODEL"),
        (("serve", "--", "page", "serve", "x"), 2, "paged serve"),
        (("serve", "--engine", "paged"), 2, "which model"),
        (("serve", "--command", "/nowhere.sh"), 4, "cannot be read"),
        (("serve", "--command", "x", "--", "paged", "serve", "x"), 2, "exclude"),
        (("max", "llama-3-8b", "-e", "paged", "-g", "t4", "--over", "everything"), 2, "concurrency"),
        (("max", "--gpu", "t4"), 2, "MODEL"),
        (("serve", "--", "split-server", "-m", "/models/x.gguf"), 4, "before -- which model"),
    ],
)
def test_what_is_wrong_is_said(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], code: int, words: str
) -> None:
    """The problem, the fix, and the exit code."""
    found, _, err = run(capsys, *args)
    assert found == code
    assert words in err


def test_without_an_engine_it_is_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    """As it always was; sizes may be written with a k."""
    found = as_json(capsys, "serve", "qwen2.5-0.5b", "--context", "1k")
    assert found["job"]["seq_len"] == 1024
    assert found["served"] is None


def test_quantised_weights_are_played_by_their_library(capsys: pytest.CaptureFixture[str]) -> None:
    """Codes and scales in the ledger; what says nothing of the format is not printed."""
    words = ("serve", "qwen2.5-0.5b", "--quantization", "awq", "--precision", "fp16", "--context", "1k")
    found = as_json(capsys, *words)
    assert found["job"]["quantization"] == "awq"
    assert any(item["name"].endswith("qweight") for item in found["items"])
    assert not any(text.startswith(("gptq_kernel", "compute_fp32")) for text in found["assumptions"])
    code, _, err = run(capsys, "serve", "qwen2.5-0.5b", "--quantization", "awk")
    assert code == 2
    assert "awq" in err
