"""Recipes of steps kept between commands, in the user's cache folder.

A step that was played once need not be played again for other sizes. Files are small, written whole or not at all, and
belong to one state of oomph's rules; what cannot be read or written is simply played again. A file begins with the
digest of what follows, and what follows must make sense: a damaged file is as good as none, and so is a hostile one.
OOMPH_CACHE names another folder; empty, it keeps nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import Any, cast

from oomph import __version__
from oomph.recipe import Change, Class, Delta, Part, Recipe, Term
from oomph.tape.sizes import COMPARE, COMPUTE

RULES = (
    "blocks",
    "formats",
    "methods",
    "ops",
    "optimizers",
    "programs",
    "tape",
    ".",
)  # folders whose code decides what a step is
MAX_BYTES = 2**22  # of one file; a recipe takes some sixty thousand
MAX_FILES = 512
PREFIX = "recipes-"  # of a folder's name
FORGOTTEN = 30 * 24 * 3600  # seconds after which a folder that nothing wrote to is not missed
MAX_BITS = 2**12  # of a number in a recipe: sizes have forty, products of all axes of a tensor a few hundred
LONGEST = 2**MAX_BITS
CHANGE = len(Change._fields)
AXIS_BITS = 32
BRANCHES = 16  # recipes of one structure that are kept
DIGEST = 64  # characters of a sha256


class Shelf:
    """The recipes of structures met before, in memory and on disk."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.known: dict[str, list[Recipe]] = {}

    def get(self, key: str) -> list[Recipe]:
        """Return the recipes kept for a structure, one for each way its branches went."""
        if key not in self.known:
            self.known[key] = self._read(key)
        return self.known[key]

    def put(self, key: str, recipe: Recipe) -> None:
        """Keep a recipe."""
        recipes = self.get(key)
        recipes.insert(0, recipe)
        del recipes[BRANCHES:]
        self._write(key, recipes)

    def _path(self, key: str) -> Path | None:
        return self.folder and self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.recipes"

    def _read(self, key: str) -> list[Recipe]:
        path = self._path(key)
        if path is None:
            return []
        try:
            text = _regular(path)
            if _digest(text[DIGEST:]) != text[:DIGEST]:
                return []
            kept = json.loads(text[DIGEST:])
            return [_recipe(row) for row in kept["recipes"][:BRANCHES]] if kept["key"] == key else []
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return []

    def _write(self, key: str, recipes: list[Recipe]) -> None:
        path = self._path(key)
        if path is None:
            return
        text = _text(key, recipes)
        if len(text) > MAX_BYTES:
            text = _text(key, recipes[:1])
        with contextlib.suppress(OSError):
            if len(text) > MAX_BYTES:
                return
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True)
                _forget_others(path.parent)
            _make_room(path)
            part = path.with_suffix(f".{os.getpid()}")
            try:
                part.write_bytes(text)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)


def _make_room(path: Path) -> None:
    """Remove the oldest file of a full folder, unless a file is written that is there already."""
    files = list(os.scandir(path.parent))
    if len(files) >= MAX_FILES and not path.exists():
        os.unlink(min(files, key=lambda entry: entry.stat().st_mtime_ns))


def _forget_others(folder: Path) -> None:
    """Remove recipes of other states of the rules, which nothing reads any more, where none was written for long."""
    for other in folder.parent.glob(f"{PREFIX}*"):
        if other != folder and other.is_dir() and time.time() - other.stat().st_mtime > FORGOTTEN:
            shutil.rmtree(other, ignore_errors=True)


def _regular(path: Path) -> bytes:
    """Return a file's text; a pipe, a device or a folder has none."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return b""
        return file.read(MAX_BYTES)


def _text(key: str, recipes: list[Recipe]) -> bytes:
    rows = [[*[value for name, value in vars(one).items() if name != "parts"], _flat(one.parts)] for one in recipes]
    text = json.dumps({"key": key, "recipes": rows}, separators=(",", ":")).encode()
    return _digest(text) + text


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _recipe(row: list[Any]) -> Recipe:
    """Return a recipe as it was written; raises one of the errors that a reader expects for any other."""
    atoms, products, guards, classes, layers, depth, period = _tuples(row[:-1])
    kinds = tuple(Class(*one) for one in classes)
    found = Recipe(atoms, products, guards, kinds, _parts(row[-1], len(kinds)), layers, depth, period)
    _check(found)
    return found


def _flat(parts: tuple[Part, ...]) -> list[list[Any]]:
    """Return parts, the changes of each delta in one row of numbers: most of a recipe is them, and so they are fast."""
    return [[*one[:-1], [[number for change in delta for number in change] for delta in one.deltas]] for one in parts]


def _parts(rows: list[list[Any]], kinds: int) -> tuple[Part, ...]:
    """Return parts as `_flat` wrote them; their changes are of so many classes."""
    parts = []
    for work, layer, shifted, repeated, deltas in rows:
        _check_changes(deltas, kinds)
        parts.append(Part(work, layer, shifted, repeated, tuple(map(_delta, deltas))))
    return tuple(parts)


def _check_changes(deltas: list[list[Any]], kinds: int) -> None:
    """Raise ValueError unless rows of numbers are changes; those of a part are looked at together, which is fast."""
    numbers = [number for flat in deltas for number in flat]
    if numbers:
        changed = numbers[::CHANGE]
        _require(set(map(type, numbers)) == {int} and min(numbers) > -LONGEST and max(numbers) < LONGEST)
        _require(not any(len(flat) % CHANGE for flat in deltas) and min(changed) >= 0 and max(changed) < kinds)


def _delta(flat: list[int]) -> Delta:
    return cast(Delta, tuple(zip(flat[::CHANGE], flat[1::CHANGE], flat[2::CHANGE], strict=True)))  # as good as Changes


def _tuples(value: list[Any]) -> tuple[Any, ...]:
    """Return lists, as JSON has them, as the tuples they were."""
    return tuple([_tuples(each) if type(each) is list else each for each in value])


def _check(recipe: Recipe) -> None:
    """Raise ValueError unless everything in a recipe is of its kind and in its range."""
    terms = range(len(recipe.products))
    _require(_is_term(recipe.layers, terms) and _are_counts(recipe.depth, recipe.period))
    _check_numbers(recipe)
    for how, left, right, answer in recipe.guards:
        _require(how in COMPARE and _is_term(left, terms) and _is_term(right, terms) and type(answer) is bool)
    for n_bytes, op, shape, dtype, scope, why, times in recipe.classes:
        _require(all(_is_term(size, terms) for size in (n_bytes, times, *shape)))
        _require(all(type(text) is str for text in (op, dtype, scope, why)))
    _require(bool(recipe.parts))
    for work, layer, shifted, repeated, deltas in recipe.parts:
        _require(type(work) is str and (layer is None or _are_counts(layer)))
        _require(type(shifted) is type(repeated) is bool and bool(deltas))


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("no recipe of ours")


def _is_term(value: Any, terms: range) -> bool:
    """Tell whether a value is a number, or the place of a product."""
    if type(value) is tuple:
        return len(value) == 1 and type(value[0]) is int and value[0] in terms
    return _are_short(value)


def _are_counts(*values: Any) -> bool:
    return _are_short(*values) and min(values) >= 0


def _are_short(*values: Any) -> bool:
    return all(type(each) is int and each.bit_length() <= MAX_BITS for each in values)


def _check_numbers(recipe: Recipe) -> None:
    """Raise ValueError unless atoms are made of atoms before them, and no number can become too long."""
    axes = 0
    bits: list[int] = []  # of each atom at most

    def of_product(factor: int, atoms: tuple[int, ...]) -> int:
        _require(type(factor) is int and all(type(atom) is int and 0 <= atom < len(bits) for atom in atoms))
        return factor.bit_length() + sum(bits[atom] for atom in atoms)

    def of_term(term: Term) -> int:
        _require(_is_term(term, range(len(recipe.products))))
        return term.bit_length() if isinstance(term, int) else of_product(*recipe.products[term[0]])

    for how, left, right in recipe.atoms:
        if how == "axis":
            _require(type(left) is int and left == axes)
            axes += 1
            bits.append(AXIS_BITS)
        else:
            _require(how in COMPUTE)
            bits.append(max(of_term(left), of_term(right)) + 1)
        _require(bits[-1] <= MAX_BITS)
    _require(all(of_product(*each) <= MAX_BITS for each in recipe.products))


def shelf() -> Shelf:
    """Return the shelf of this process's user; it keeps nothing where there is no place for it."""
    named = os.environ.get("OOMPH_CACHE")
    if named == "":
        return Shelf(None)
    try:
        return Shelf((Path(named) if named else _cache_home() / "oomph") / _state())
    except (OSError, RuntimeError):  # oomph's own files are no files (a zip), or a user without a home
        return Shelf(None)


def _cache_home() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _state(home: Path = Path(__file__).parents[1]) -> str:
    """Return a name for the rules as they are: in a checkout it changes with every file, else with an installation."""
    digest = hashlib.sha256()
    if not (home.parents[1] / "pyproject.toml").exists():
        digest.update(f"{__version__} {home} {(home / '__init__.py').stat().st_mtime_ns}".encode())
        return f"{PREFIX}{digest.hexdigest()[:16]}"
    for folder in RULES:
        for entry in sorted(os.scandir(home / folder), key=lambda entry: entry.name):
            if entry.name.endswith(".py"):
                found = entry.stat()
                digest.update(f"{entry.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return f"{PREFIX}{digest.hexdigest()[:16]}"
