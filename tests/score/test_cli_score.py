"""`oomph score` as people and programs use it: tables, JSON, hostile files, the published rows."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest

from oomph.score.scoring import score
from oomph.score.summary import to_dict
from oomph.sources.json_lines import read_lines
from tests.conftest import SHARED
from tests.score.rows import ALL, INFERENCE, MEASURED, TRAINING, changed
from tests.test_cli import run

FILES = ("training.jsonl", "inference.jsonl", "llmd_vllm.jsonl", "xmem.jsonl")


def written(folder: Path, *rows: dict[str, Any]) -> str:
    """A file of rows."""
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return str(path)


def test_tables_for_people(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Quantities with their groups, the worst rows, and rows that were not estimated by reason."""
    oom = changed(TRAINING, id="too-much", gpu="A100-40GB", status="oom", measured={"nvidia_smi_gib": 39.0})
    path = written(tmp_path, *ALL, oom, changed(TRAINING, method="galore"))
    code, out, err = run(capsys, "score", path)
    assert (code, err) == (0, "")
    for text in (
        "7 rows, 6 of them",
        "weights_gib",
        "by-hand-inference",
        "+0.00%",
        "ran out of memory",
        "method galore",
    ):
        assert text in out


def test_rows_shows_every_row_and_every_reason(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """More rows than the worst are listed, reasons in full, and what was assumed."""
    rows = [changed(INFERENCE, id=f"row-{n}") for n in range(15)]
    path = written(tmp_path, *rows, changed(INFERENCE, tp=-4), TRAINING)
    _, short, _ = run(capsys, "score", path)
    _, long, _ = run(capsys, "score", path, "--rows")
    assert sum(f"row-{n} " in short for n in range(15)) == 10
    assert sum(f"row-{n} " in long for n in range(15)) == 15
    assert "tp: -4 is not a whole number" in long
    assert "reentrant checkpointing: the default of transformers 4" in " ".join(long.split())


def test_json_for_programs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Rows of several files in their order, one per quantity, and the summary."""
    path = written(tmp_path, MEASURED)
    code, out, _ = run(capsys, "score", path, path, "--json")
    found = json.loads(out)
    assert code == 0
    assert [row["id"] for row in found["rows"]] == ["by-hand-measured"] * 8
    assert set(found["rows"][0]) == {"id", "quantity", "measured", "predicted", "safe", "relative_error", "refused"}
    assert found["summary"]["peak_reserved_gib"]["n"] == 2


def test_an_escape_sequence_in_a_row_drives_no_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Ids, groups, quantities and reasons are printed without control characters."""
    row = changed(INFERENCE, id="a\x1b[2Jb", engine="v\x1b[2J", measured={"x\x1b[2J_gib": 1.0})
    _, out, _ = run(capsys, "score", written(tmp_path, row, changed(INFERENCE, id="a\x1b[2Jb")), "--rows")
    assert "\x1b[2J" not in out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"a": 1', "Line 2 of rows.jsonl is not JSON"),
        (b"[1]", "Line 2 of rows.jsonl holds a list"),
        (b'{"measured": NaN}', "Line 2 of rows.jsonl holds NaN"),
        (b"\xff\xfe", "Line 2 of rows.jsonl is not UTF-8"),
        (b'{"a": 1, "a": 2}', "Line 2 of rows.jsonl has the key"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "Line 2 of rows.jsonl is nested"),
        (b"{}", "Line 2 of rows.jsonl has no schema"),
        (b"x" * (2 * 2**20 + 1), "Line 2 of rows.jsonl is longer than"),
    ],
)
def test_a_broken_line_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, line: bytes, words: str) -> None:
    """An error says which line of which file, exits with 4, and is no traceback."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(INFERENCE).encode() + b"\n" + line + b"\n")
    code, _, err = run(capsys, "score", str(path))
    assert code == 4
    assert words in err


def test_no_more_lines_than_allowed_are_read(tmp_path: Path) -> None:
    """The line beyond the limit is an error, those before it were read; empty lines count as lines."""
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n\n{}\n")
    assert [number for number, _ in read_lines(path, max_lines=3)] == [1, 3]
    with pytest.raises(Exception, match="more than 2 lines"):
        list(read_lines(path, max_lines=2))


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_what_is_no_file_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    """A missing file and a folder are said in a sentence."""
    code, _, err = run(capsys, "score", str(tmp_path / name))
    assert code == 4
    assert "file" in err


def test_an_empty_file_is_no_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nothing in, nothing out, and that could be scored."""
    path = tmp_path / "rows.jsonl"
    path.write_text("")
    code, out, _ = run(capsys, "score", str(path))
    assert code == 0
    assert "0 rows" in out


def test_no_file_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The command says what it needs."""
    code, _, err = run(capsys, "score")
    assert code == 2
    assert "FILE" in err


@pytest.mark.slow
@pytest.mark.shared
def test_every_published_row_is_refused_or_close() -> None:
    """As many rows come out as the files have, each refused with a reason or with an estimate, and those are close."""
    rows = {name: [row for _, row in read_lines(SHARED / "truth" / name)] for name in FILES}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oomph.runs.STEPS", 4)  # where batches have many lengths, for time's sake
        found = to_dict(list(score([(name, row) for name in FILES for row in rows[name]])))
    known = [row["id"] for name in FILES for row in rows[name]]
    assert list(dict.fromkeys(row["id"] for row in found["rows"])) == list(dict.fromkeys(known))
    for row in found["rows"]:
        assert (row["refused"] is None) == (row["predicted"] is not None)
        assert row["refused"] is None or row["refused"].strip()
    _jobs_are_close(found)
    engines = {row["id"]: row["engine"] for row in rows["inference.jsonl"] if row["confidence"] == "high"}
    sweep = {row["id"]: "sweep" for row in rows["llmd_vllm.jsonl"] if row["confidence"] == "high"}
    _served_is_close(found["rows"], {**engines, **sweep})


def _jobs_are_close(found: dict[str, Any]) -> None:
    """Hold peaks of generate() and of training, what stays after a step, reserved memory, and what nvidia-smi shows."""
    summary = found["summary"]
    written = [row for row in found["rows"] if row["quantity"] == "peak_gib" and row["id"].startswith("hf-")]
    errors = [abs(row["relative_error"]) for row in written if not row["refused"]]
    assert len(errors) == len(written) >= 211
    assert median(errors) < 0.001
    assert max(errors) < 0.05
    assert summary["peak_allocated_gib"]["n"] >= 110
    assert summary["peak_allocated_gib"]["median"] < 0.003
    assert summary["peak_allocated_gib"]["p90"] < 0.03
    assert summary["resident_alloc_gib"]["n"] >= 70
    assert summary["resident_alloc_gib"]["median"] < 0.001
    assert summary["must_not_fit_gib"]["called_fitting"] == 0
    read_off = [row for row in found["rows"] if row["id"].startswith("qwen1-") and not row["refused"]]
    errors = [abs(row["relative_error"]) for row in read_off if row["quantity"] == "peak_reserved_gib"]
    assert len(errors) >= 60
    assert median(errors) < 0.015
    reserved = [row for row in found["rows"] if row["quantity"].startswith("torch_reserved") and not row["refused"]]
    t5 = [abs(row["relative_error"]) for row in reserved if "t5" in row["id"].lower()]
    others = [abs(row["relative_error"]) for row in reserved if "t5" not in row["id"].lower()]
    assert len(t5) >= 10
    assert len(others) >= 17
    assert median(others) < 0.015
    assert median(t5) < 0.04


LLAMA_CPP = ("llama.cpp", "llama-cpp-python (llama.cpp)", "ollama (llama.cpp runner)", "ik_llama.cpp")


def _served_is_close(rows: list[dict[str, Any]], engines: dict[str, str]) -> None:
    """Hold what engines printed to what was set out to reach, but for how many rows are refused."""

    def errors(quantity: str, *names: str) -> list[float]:
        mine = [row for row in rows if row["quantity"] == quantity and engines.get(row["id"]) in names]
        return sorted(abs(row["relative_error"]) for row in mine if not row["refused"])

    for quantity, most, least in (
        ("weights_gib", 0.002, 41), ("activation_peak_gib", 0.05, 41), ("kv_cache_gib", 0.01, 41),
        ("max_concurrency", 0.015, 39),
    ):  # fmt: skip
        found = errors(quantity, "sweep")
        assert len(found) >= least
        assert fmean(found) < most, quantity
    for engine, quantity, most, least in (
        ("vllm", "weights_gib", 0.002, 45), ("vllm", "kv_tokens", 0.001, 30), ("vllm", "max_concurrency", 0.003, 40),
        ("sglang", "kv_tokens", 0.003, 25), ("mlx-lm", "peak_gib", 0.02, 7),
    ):  # fmt: skip
        found = errors(quantity, engine)
        assert len(found) >= least
        assert median(found) < most, (engine, quantity)
    caches, computing = errors("kv_mib", *LLAMA_CPP), errors("compute_buffer_mib", *LLAMA_CPP)
    assert len(caches) >= 80
    assert sum(error <= 0.001 for error in caches) >= 0.97 * len(caches)
    assert len(computing) >= 20
    assert median(computing) < 0.03


@pytest.mark.parametrize("columns", ["80", "120"])
def test_names_of_groups_are_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """A terminal of 80 columns shows them whole too, as long as a word is not longer than any in the published rows."""
    monkeypatch.setenv("COLUMNS", columns)
    path = written(tmp_path, *ALL, changed(TRAINING, model="a-model"))
    shown = set(run(capsys, "score", path)[1].split())
    summaries = json.loads(run(capsys, "score", path, "--json")[1])["summary"].values()
    names = {
        word for each in summaries for name, group in each["groups"].items() if group["n"] for word in name.split()
    }
    assert "(fms-hf-tuning)" in names
    assert names <= shown
