"""Many rows: processes, a file that is taken up again, budgets, and what a missing or dying device leads to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from oomph.errors import SourceError, UsageError
from oomph.job import InferJob, TrainJob
from oomph.referee import isolated
from oomph.referee import measure as referee
from oomph.referee.measure import Entry, Progress, identity
from oomph.referee.row_file import RowFile
from tests.referee import models

ROOT = Path(__file__).parents[2]
ON: dict[str, Any] = {
    "gpu": "stand-in", "total_bytes": 2**34, "compute_capability": "9.0",
    "versions": {"oomph": "1", "torch": "2.13.0", "transformers": "5.23.0", "cuda": "13.0", "driver": "580"},
    "environment": {},
}  # fmt: skip
SMALL: dict[str, Any] = {"batch": 2, "seq_len": 37}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are measured on the CPU, by tests/referee/cpu_row.py."""
    monkeypatch.setattr(referee, "ROW", "tests.referee.cpu_row")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in this process."""
    from tests.referee.cpu_row import Here

    monkeypatch.setattr(isolated, "Worker", Here)


def entry(name: str = "llama", raw: dict[str, Any] = models.LLAMA, job: Any = None) -> Entry:
    return Entry(name, "tiny", raw, job or TrainJob(**SMALL))


def as_row(ident: str) -> dict[str, Any]:
    return {"schema": referee.SCHEMA, "id": ident}


def test_an_id_is_what_was_measured() -> None:
    """Config, job, libraries, settings and GPU make the id; the name, oomph's and the driver's version do not."""
    first = identity(entry(), ON)
    same = {**ON, "versions": {**ON["versions"], "driver": "590", "oomph": "2"}, "total_bytes": 1}
    assert identity(entry("another name"), same) == first
    others = [
        identity(entry(raw={**models.LLAMA, "vocab_size": 7}), ON),
        identity(entry(job=TrainJob(batch=3)), ON),
        identity(entry(job=InferJob(**SMALL)), ON),
        identity(entry(), {**ON, "gpu": "another"}),
        identity(entry(), {**ON, "environment": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}}),
        identity(entry(), {**ON, "versions": {**ON["versions"], "torch": "2.14.0"}}),
    ]
    assert len({first, *others}) == 7


def test_the_same_twice_is_measured_once() -> None:
    """Of entries that mean the same the first stays, in order."""
    entries = [entry("a"), entry("b", job=TrainJob(batch=3)), entry("c")]
    assert [each.name for each in referee.unique(entries, ON)] == ["a", "b"]


@pytest.mark.parametrize("end", ["", "\n", '\n{"schema":"oomph-mea', '\n{"sch'])
def test_a_file_is_taken_up_again(tmp_path: Path, end: str) -> None:
    """What is whole counts, a line that was cut off goes, and the next row stands on a line of its own."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(as_row("one"), separators=(",", ":")) + end)
    with RowFile(path) as file:
        assert file.done == {"one"}
        file.append(as_row("two"))
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["one", "two"]
    with RowFile(path) as file:
        assert file.done == {"one", "two"}


@pytest.mark.parametrize("text", ['{"schema":"oomph-mea', "", None])
def test_nothing_whole_is_a_fresh_start(tmp_path: Path, text: str | None) -> None:
    """A first row that was cut off, an empty file and no file are the same."""
    path = tmp_path / "rows.jsonl"
    if text is not None:
        path.write_text(text)
    with RowFile(path) as file:
        assert file.done == frozenset()
        file.append(as_row("one"))
    assert path.read_text() == '{"schema":"oomph-measure-1","id":"one"}\n'


@pytest.mark.parametrize(
    "text",
    [
        "my notes", "my notes\n", "{}\n", "[1]\n", '{"schema":"other","id":"a"}\n', '{"schema":"oomph-measure-1"}\n',
        '{"schema":"oomph-measure-1","id":"a"}\nmy notes', "x" * 2**21, "[" * 100_000 + "\n", "\x80\n",
    ],
    ids=range(10),
)  # fmt: skip
def test_other_files_are_left_alone(tmp_path: Path, text: str) -> None:
    """A file that holds anything but rows is refused and not changed."""
    path = tmp_path / "notes.txt"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="holds other things"):
        RowFile(path)
    assert path.read_bytes() == text.encode("latin-1")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder and a path that leads nowhere are errors with a sentence."""
    with pytest.raises(UsageError, match="not a file"):
        RowFile(tmp_path)
    with pytest.raises(SourceError, match="cannot be written"):
        RowFile(tmp_path / "nothing" / "rows.jsonl")


def test_progress_in_words() -> None:
    """A line says what came out, how many are left and how long they take."""
    row = {"name": "a", "status": "oom", "measured": {"peak_allocated_bytes": 2**30, "peak_reserved_bytes": 2**31}}
    assert referee.sentence(row, Progress(1, 3, 130)) == (
        "a: oom, 1.00 GiB allocated, 2.00 GiB reserved; 3 left, about 2 min"
    )
    failed = {"name": "a", "status": "error", "reason": "why", "measured": {}}
    assert referee.sentence(failed, Progress(4, 0, 0)) == "a: error: why; the last one"


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra to install is named, exit 4."""
    monkeypatch.setattr(referee, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r"oomph\[trace\]") as caught:
        referee.device()
    assert caught.value.exit_code == 4


@pytest.mark.slow
def test_a_missing_or_dying_device(stand_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch says of the device is repeated; a process that dies over it is no device either."""
    assert referee.device()["gpu"] == "stand-in"
    monkeypatch.setenv("OOMPH_TEST_NO_DEVICE", "1")
    with pytest.raises(SourceError, match="was told there is none"):
        referee.device()
    monkeypatch.setenv("OOMPH_TEST_CRASH", "1")
    with pytest.raises(SourceError, match="exit -6"):
        referee.device()


@pytest.mark.slow
def test_rows_from_processes(stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From entries to rows: complete, equal to a row made here, an OOM among them, done ones left out.

    docs/measure.md names every key of a row, of its figures and of a phase.
    """
    from oomph.referee.row import measure
    from oomph.snapshot import read_recording
    from tests.referee.cpu_row import CpuMeter

    job = TrainJob(**SMALL)
    whole = measure(models.LLAMA, job, CpuMeter())
    monkeypatch.setenv("OOMPH_TEST_DEVICE_BYTES", str(whole["measured"]["peak_allocated_bytes"]))
    entries = [
        entry(),
        entry("too large", job=TrainJob(batch=9, seq_len=100)),
        entry("done before", job=TrainJob(batch=4)),
    ]
    done = frozenset({identity(entries[2], ON)})
    rows, progress = zip(*referee.measure(entries, ON, done, snapshots=tmp_path), strict=True)
    assert [row["status"] for row in rows] == ["ok", "oom"]
    assert [(each.done, each.left) for each in progress] == [(1, 1), (2, 0)]
    first = rows[0]
    assert all(first[key] == whole[key] for key in ("kernels", "params"))
    for name, value in whole["measured"].items():
        assert first["measured"][name] == value, name
    peak = first["measured"]["peak_allocated_bytes"]
    assert first["measured"]["peak_allocated_gib"] == round(peak / 2**30, 4)
    assert (first["schema"], first["id"]) == ("oomph-measure-1", identity(entries[0], ON))
    assert (first["seq_len"], first["micro_batch"], first["gpu"], first["grad_accum"]) == (37, 2, "stand-in", 1)
    assert TrainJob(**first["job"]) == job
    assert first["config"] == models.LLAMA
    assert read_recording(tmp_path / first["snapshot"]).stream.peak_bytes == peak
    assert json.loads(json.dumps(rows)) == list(rows)
    text = (ROOT / "docs" / "measure.md").read_text()
    for key in (*first, *first["measured"], *first["phases"][0], *first["device"]):
        assert f"`{key}`" in text, key


@pytest.mark.slow
def test_rows_that_fail_and_rows_of_inference(here: None) -> None:
    """A model that nobody knows is a row with its reason; a row of inference says its job."""
    decoding = InferJob(**SMALL, decode=1)
    failed, served = referee.measure([entry(raw={"model_type": "nonsense-9"}), entry(job=decoding)], ON)
    assert (failed[0]["status"], served[0]["status"]) == ("error", "ok")
    assert "nonsense-9" in failed[0]["reason"]
    assert InferJob(**served[0]["job"]) == decoding


@pytest.mark.slow
def test_a_row_that_takes_too_long_and_one_that_dies(stand_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are rows with a reason, and the next one follows."""
    (late, _), *_ = referee.measure([entry()], ON, row_seconds=0.5)
    assert (late["status"], late["reason"]) == ("error", "it took more than 0.5 seconds")
    monkeypatch.setenv("OOMPH_TEST_CRASH", "1")
    (dead, _), *_ = referee.measure([entry()], ON)
    assert (dead["status"], dead["reason"]) == ("error", "the process ended without an answer (exit -6)")
    assert dead["measured"]["peak_allocated_gib"] is None


@pytest.mark.slow
def test_a_budget_ends_between_rows(here: None) -> None:
    """A row that would probably end too late is not begun; the first one always is."""
    entries = [entry(job=TrainJob(batch=batch, seq_len=5)) for batch in range(1, 3)]
    rows = list(referee.measure(entries, ON, seconds=0.001))
    assert len(rows) == 1  # how long one takes is not known before
    assert rows[0][1].left == 1
