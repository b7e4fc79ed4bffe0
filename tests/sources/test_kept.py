"""Recipes between commands: what is put is got, and no file makes a difference but to the time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oomph import steps
from oomph.families import model_from_config
from oomph.job import TrainJob
from oomph.recipe import Recipe, Sums
from oomph.sources import kept
from oomph.sources.kept import Shelf
from oomph.structure import structure
from oomph.tape.sizes import Sheet

TINY = model_from_config(
    {
        "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_hidden_layers": 6,
    }
)  # fmt: skip
JOB = TrainJob(1, 16)
KEY = structure(TINY, JOB).key


def played(job: TrainJob = JOB) -> Recipe:
    """A real recipe."""
    sheet = Sheet()
    depth = sheet.axis(TINY.num_layers)
    return steps.compiled(sheet, *steps.symbolic(TINY, job, sheet), depth)


RECIPE = played()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "not" / "there" / "yet"


def only_file(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def sealed(value: Any) -> bytes:
    """A file that says it is whole."""
    text = json.dumps(value).encode()
    return hashlib.sha256(text).hexdigest().encode() + text


def test_what_is_put_is_got(folder: Path) -> None:
    """By the same shelf and by a new one of the same folder, equal to the last tuple."""
    shelf = Shelf(folder)
    assert shelf.get(KEY) == []
    shelf.put(KEY, RECIPE)
    assert shelf.get(KEY) == [RECIPE]
    assert Shelf(folder).get(KEY) == [RECIPE]
    assert hash(Shelf(folder).get(KEY)[0].classes) == hash(RECIPE.classes)
    assert Shelf(folder).get("another structure") == []


def test_the_newest_branches_are_kept(folder: Path) -> None:
    """The last recipe comes first; of many branches the oldest go."""
    shelf = Shelf(folder)
    others = [played(TrainJob(1, length)) for length in (1, 2, 3)]
    for at in range(kept.BRANCHES + 3):
        shelf.put(KEY, others[at % 3])
    found = Shelf(folder).get(KEY)
    assert len(found) == kept.BRANCHES
    assert found[0] == others[(kept.BRANCHES + 2) % 3]


def test_a_step_from_the_shelf_is_the_step_played(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heights and names are those of a fresh play, for other sizes too."""
    for job in (JOB, TrainJob(2, 40)):
        monkeypatch.setattr(steps, "_shelf", lambda: Shelf(None))
        fresh = steps.step(TINY, job)
        monkeypatch.setattr(steps, "_shelf", lambda: Shelf(folder))
        steps.step(TINY, job)
        assert steps.step(TINY, job).stretches == fresh.stretches


def truncated(text: bytes) -> bytes:
    return text[: len(text) // 2]


def one_number_changed(text: bytes) -> bytes:
    """Valid JSON of a valid shape with one digit that is another."""
    at = text.index(b'"recipes"')
    digit = next(i for i in range(len(text) - 40, at, -1) if text[i : i + 1].isdigit())
    return text[:digit] + str((int(text[digit : digit + 1]) + 1) % 10).encode() + text[digit + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "truncated": truncated,
    "one number changed": one_number_changed,
    "no JSON": lambda text: b"\x00\xff" * 100,
    "another key": lambda text: sealed({"key": "another", "recipes": json.loads(text[64:])["recipes"]}),
    "another shape": lambda text: sealed([1, 2, 3]),
    "no recipes": lambda text: sealed({"key": KEY}),
    "recipes that are none": lambda text: sealed({"key": KEY, "recipes": [None, 3, "x", {}]}),
    "deep": lambda text: hashlib.sha256(b"[" * 10**6).hexdigest().encode() + b"[" * 10**6,
    "huge": lambda text: text + b" " * 2**23,
    "a long number": lambda text: sealed({"key": KEY, "recipes": int("9" * 4000)}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_ignored_and_written_anew(folder: Path, damage: str) -> None:
    """Nothing is read from them, and the next recipe replaces them."""
    Shelf(folder).put(KEY, RECIPE)
    path = only_file(folder)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    shelf = Shelf(folder)
    assert shelf.get(KEY) == []
    shelf.put(KEY, RECIPE)
    assert Shelf(folder).get(KEY) == [RECIPE]


def rows() -> list[Any]:
    """A recipe as a file has it."""
    found: list[Any] = json.loads(json.dumps(list(vars(RECIPE).values())))
    return found


ATOMS, PRODUCTS, GUARDS, CLASSES, PARTS, LAYERS, DEPTH, PERIOD = range(8)


def growing() -> tuple[Any, Any]:
    """Atoms and products whose numbers double their length again and again."""
    atoms, products = [["axis", 0, 0]], []
    for at in range(60):
        products.append([2**62, [at] * 40])
        atoms.append(["+", [at], 1])
    return atoms, products


def hostile(change: str) -> list[Any]:
    """A recipe that says it is whole and is not."""
    row = rows()
    if change == "a product of an atom that is not there":
        row[PRODUCTS][0] = [1, [9999]]
    elif change == "an operator that is none":
        row[ATOMS][-1][0] = "**"
    elif change == "a class without bytes":
        row[CLASSES][0][0] = None
    elif change == "a class of text":
        row[CLASSES][0] = "parameter"
    elif change == "a shape of texts":
        row[CLASSES][0][2] = ["batch"]
    elif change == "a change of a class that is not there":
        row[PARTS][0][4][0][0] = [9999, 1, 0]
    elif change == "a part of nothing":
        row[PARTS][0] = []
    elif change == "a layer that is no number":
        row[PARTS][3][1] = "three"
    elif change == "no parts":
        row[PARTS] = []
    elif change == "a guard of texts":
        row[GUARDS][0] = ["<", "a", "b", True]
    elif change == "fractions":
        row[PRODUCTS] = [[0.5, atoms] for _, atoms in row[PRODUCTS]]
    elif change == "a depth that is no number":
        row[DEPTH] = "3"
    elif change == "a negative period":
        row[PERIOD] = -1
    elif change == "too long":
        row.append(1)
    elif change == "numbers without end":
        row[ATOMS], row[PRODUCTS] = growing()
        row[GUARDS] = []
        row[CLASSES] = [[[59], "x", [], "bf16", "", ""]]
    return row


HOSTILE = (
    "a product of an atom that is not there", "an operator that is none", "a class without bytes", "a class of text",
    "a shape of texts", "a change of a class that is not there", "a part of nothing", "a layer that is no number",
    "no parts", "a guard of texts", "fractions", "a depth that is no number", "a negative period", "too long",
    "numbers without end",
)  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_recipes_are_ignored(folder: Path, change: str) -> None:
    """A file that a program wrote to do harm does none: no error, no endless computing."""
    assert hostile(change) != rows()
    Shelf(folder).put(KEY, RECIPE)
    only_file(folder).write_bytes(sealed({"key": KEY, "recipes": [hostile(change)]}))
    assert Shelf(folder).get(KEY) == []


def test_a_divisor_of_nothing_is_no_error(folder: Path) -> None:
    """A quotient by 0 in a file is a recipe that holds for no numbers."""
    row = rows()
    row[ATOMS].append(["//", 1, 0])
    Shelf(folder).put(KEY, RECIPE)
    only_file(folder).write_bytes(sealed({"key": KEY, "recipes": [row]}))
    sums = [Sums(one, (6, 1, 16, *structure(TINY, JOB).numbers[2:])) for one in Shelf(folder).get(KEY)]
    assert not any(one.hold() for one in sums)


def test_a_recipe_of_more_axes_holds_for_no_numbers() -> None:
    """Numbers that are too few cannot be put in, which is no error."""
    assert not Sums(RECIPE, (6, 1)).hold()


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a recipe's row."""
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield (*at, index)
            yield from paths(each, (*at, index))


PLACES = list(paths(rows()))
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**80), 2**80), st.floats(allow_nan=False), st.text(max_size=3),
    st.just([]), st.just({}), st.lists(st.integers(-3, 3), max_size=4),
)  # fmt: skip


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PLACES), JUNK)
def test_any_value_in_any_place_is_no_error(tmp_path: Path, place: tuple[int, ...], junk: Any) -> None:
    """Whatever stands anywhere in a sealed file: it is read or ignored, and what was read can be used."""
    row = rows()
    outer = row
    for index in place[:-1]:
        outer = outer[index]
    outer[place[-1]] = junk
    shelf = Shelf(tmp_path)
    shelf.put(KEY, RECIPE)
    only_file(tmp_path).write_bytes(sealed({"key": KEY, "recipes": [row]}))
    for recipe in Shelf(tmp_path).get(KEY):
        sums = Sums(recipe, (6, *structure(TINY, JOB).numbers))
        if sums.hold():
            assert steps.with_numbers(sums).peak is not None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_place_of_a_file_does_not_wait(folder: Path) -> None:
    """Neither a pipe without a writer nor a folder is read."""
    Shelf(folder).put(KEY, RECIPE)
    path = only_file(folder)
    path.unlink()
    os.mkfifo(path)
    assert Shelf(folder).get(KEY) == []
    path.unlink()
    path.mkdir()
    shelf = Shelf(folder)
    assert shelf.get(KEY) == []
    shelf.put(KEY, RECIPE)
    assert shelf.get(KEY) == [RECIPE]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """A file stands where the folder should be; the shelf still works within its process."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    shelf = Shelf(blocked / "below")
    shelf.put(KEY, RECIPE)
    assert shelf.get(KEY) == [RECIPE]
    assert Shelf(blocked / "below").get(KEY) == []


def test_what_could_not_be_read_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many branches for a file leave the newest one; a recipe that is too large leaves no file."""
    shelf = Shelf(folder)
    shelf.put(KEY, RECIPE)
    size = only_file(folder).stat().st_size
    monkeypatch.setattr(kept, "MAX_BYTES", size + 100)
    shelf.put(KEY, RECIPE)
    assert Shelf(folder).get(KEY) == [RECIPE]
    monkeypatch.setattr(kept, "MAX_BYTES", size // 2)
    shelf.put("other", RECIPE)
    assert len(list(folder.iterdir())) == 1


def test_a_full_folder_forgets_the_oldest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit a new structure takes the place of the one that was written first; a known one only its own."""
    monkeypatch.setattr(kept, "MAX_FILES", 2)
    shelf = Shelf(folder)
    for at, key in enumerate((KEY, "other")):
        shelf.put(key, RECIPE)
        newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (at, at))
    shelf.put("third", RECIPE)
    assert [len(Shelf(folder).get(key)) for key in (KEY, "other", "third")] == [0, 1, 1]
    shelf.put("other", RECIPE)
    assert [len(Shelf(folder).get(key)) for key in ("other", "third")] == [2, 1]


def test_folders_of_other_rules_are_removed_when_they_are_old(tmp_path: Path) -> None:
    """A new state of the rules begins a folder; those that nothing wrote to for long go, others stay."""
    old, young, foreign = (tmp_path / name for name in ("recipes-old", "recipes-young", "mine"))
    for each in (old, young, foreign):
        each.mkdir()
        (each / "file").touch()
    for each in (old, foreign):
        os.utime(each, (0, 0))
    Shelf(tmp_path / "recipes-new").put(KEY, RECIPE)
    assert {each.name for each in tmp_path.iterdir()} == {"recipes-young", "recipes-new", "mine"}


def test_where_the_shelf_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OOMPH_CACHE names the folder; empty, nothing is kept; a user without a home keeps nothing."""
    monkeypatch.setenv("OOMPH_CACHE", str(tmp_path))
    found = kept.shelf().folder
    assert found is not None
    assert found.parent == tmp_path
    monkeypatch.setenv("OOMPH_CACHE", "")
    assert kept.shelf().folder is None
    monkeypatch.delenv("OOMPH_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert kept.shelf().folder is None


def test_an_empty_name_keeps_nothing(tmp_path: Path) -> None:
    """With OOMPH_CACHE="" a command leaves no file behind."""
    shelf = Shelf(None)
    shelf.put(KEY, RECIPE)
    assert shelf.get(KEY) == [RECIPE]
    code = (
        "from tests.sources.test_kept import TINY, JOB; from oomph.steps import step; step(TINY, JOB);"
        " from oomph.steps import _shelf; assert _shelf().folder is None"
    )
    home = {**os.environ, "OOMPH_CACHE": "", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=home, cwd=Path(__file__).parents[2])
    assert list(tmp_path.iterdir()) == []


def test_a_change_of_the_rules_is_another_folder(tmp_path: Path) -> None:
    """In a checkout the folder's name changes with any file that decides a step, else when oomph is installed anew."""
    home = tmp_path / "src" / "oomph"
    for folder in kept.RULES:
        (home / folder).mkdir(parents=True, exist_ok=True)
        (home / folder / "__init__.py").touch()
    rule, first = home / "ops" / "silu.py", home / "__init__.py"
    rule.write_text("old")
    installed = kept._state(home)
    rule.write_text("newer")
    assert kept._state(home) == installed
    os.utime(first, (0, 0))
    assert kept._state(home) != installed
    (tmp_path / "pyproject.toml").touch()
    before = kept._state(home)
    assert kept._state(home) == before != installed
    rule.write_text("newest")
    assert kept._state(home) != before


WRITER = """
import sys
from pathlib import Path
from tests.sources.test_kept import RECIPE, Shelf
folder, mine = Path(sys.argv[1]), sys.argv[2]
for turn in range(20):
    shelf = Shelf(folder)
    assert all(one == RECIPE for one in shelf.get("shared"))
    shelf.put("shared", RECIPE)
    shelf.put(mine, RECIPE)
    assert Shelf(folder).get(mine)[0] == RECIPE
"""


def test_two_processes_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Both write one structure at once, and read it: each file is whole at any time."""
    root = Path(__file__).parents[2]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], cwd=root) for name in ("one", "two")
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    found = Shelf(tmp_path)
    assert all(found.get(name)[0] == RECIPE for name in ("shared", "one", "two"))
    assert len(list(tmp_path.iterdir())) == 3, "nothing half-written is left"
