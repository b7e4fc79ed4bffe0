"""A process of its own: what it said last when it ended without an answer, and where it finds its modules."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oomph.referee import isolated

SERVING = "from oomph.referee.isolated import serve\n"


def module(folder: Path, code: str) -> str:
    """A module of this code; its name."""
    (folder / "other_process.py").write_text(code)
    return "other_process"


def died(name: str) -> isolated.Died:
    with pytest.raises(isolated.Died) as caught:
        list(isolated.messages(name, {}, 30))
    return caught.value


def test_the_last_line_of_a_process_that_cannot_start() -> None:
    """Python's own reason is part of what is said, not only its exit code."""
    ended = died("no_such_module")
    assert ended.returncode == 1
    assert "No module named no_such_module" in ended.how


def test_what_it_said_is_bounded_and_never_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Megabytes on stderr are read away; the last line counts, cut to a length; odd bytes do no harm."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    code = "import os, sys\nsys.stderr.write('noise\\n' * 2**19 + 'x' * 10_000 + '\\n\\n')\nsys.stderr.flush()\n"
    ended = died(module(tmp_path, code + "os.write(2, b'\\xff\\n')\nos._exit(7)"))
    assert (ended.returncode, ended.said) == (7, "\N{REPLACEMENT CHARACTER}")
    ended = died(module(tmp_path, code + "os._exit(7)"))
    assert (ended.returncode, ended.said) == (7, "x" * isolated.LINE)


def test_nothing_said_is_nothing_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies in silence has only its exit code."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert died(module(tmp_path, "import os\nos._exit(3)")).how == "exit 3"


def test_a_relative_search_path_holds_in_the_other_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONPATH=src, as people set it in a checkout, is the same folder for a process that works elsewhere."""
    (tmp_path / "mine").mkdir()
    name = module(tmp_path / "mine", f"{SERVING}serve(lambda question, send: {{'answer': question}})")
    monkeypatch.chdir(tmp_path)
    source = str(Path(isolated.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["mine", "", os.path.relpath(source)]))
    assert list(isolated.messages(name, 5, 30)) == [{"answer": 5}]
