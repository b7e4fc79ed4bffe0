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
import stat
import sys
from pathlib import Path
from typing import Any

from oomph.recipe import Class, Part, Recipe, Sums, Term, alive, stretches

RULES = ("blocks", "ops", "optimizers", "programs", "tape", ".")  # folders whose code decides what a step is
MAX_BYTES = 2**22  # of one file; a recipe takes some sixty thousand
MAX_FILES = 512
MAX_BITS = 2**12  # of a number in a recipe: sizes have forty, products of all axes of a tensor a few hundred
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
            path.parent.mkdir(parents=True, exist_ok=True)
            full = sum(1 for _ in os.scandir(path.parent)) >= MAX_FILES
            if len(text) > MAX_BYTES or (full and not path.exists()):
                return
            part = path.with_suffix(f".{os.getpid()}")
            try:
                part.write_bytes(text)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)


def _regular(path: Path) -> bytes:
    """Return a file's text; a pipe, a device or a folder has none."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return b""
        return file.read(MAX_BYTES)


def _text(key: str, recipes: list[Recipe]) -> bytes:
    rows = [list(vars(one).values()) for one in recipes]
    text = json.dumps({"key": key, "recipes": rows}, separators=(",", ":")).encode()
    return _digest(text) + text


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _recipe(row: list[Any]) -> Recipe:
    """Return a recipe as it was written; raises one of the errors that a reader expects for any other."""
    atoms, products, guards, classes, parts, layers, depth, period = _tuples(row)
    found = Recipe(
        atoms, products, guards, tuple(Class(*one) for one in classes), tuple(Part(*one) for one in parts),
        layers, depth, period,
    )  # fmt: skip
    _check(found)
    return found


def _tuples(value: list[Any]) -> tuple[Any, ...]:
    """Return lists, as JSON has them, as the tuples they were."""
    return tuple([_tuples(each) if type(each) is list else each for each in value])


def _check(recipe: Recipe) -> None:
    """Try everything that is done with a recipe; numbers must stay small enough to compute with."""
    axes = _axes(recipe)
    sums = Sums(recipe, [1] * axes)
    sums.hold()
    sizes = sums.class_bytes()
    axes_of_tensors = [sums.number(size) for one in recipe.classes for size in one.shape]
    numbers = (recipe.depth, recipe.period, sums.number(recipe.layers), *sizes, *axes_of_tensors)
    if not all(type(each) is int for each in numbers) or recipe.period < 0:
        raise ValueError("a recipe's numbers are whole")
    stretches(recipe, sizes, 1)
    alive(recipe, 1, len(recipe.parts) - 1, -1)


def _axes(recipe: Recipe) -> int:
    """Return how many axes a recipe has; raises ValueError if a number could become too long."""
    bits: list[int] = []
    axes = 0

    def of(term: Term) -> int:
        if isinstance(term, int):
            return term.bit_length()
        factor, atoms = recipe.products[term[0]]
        return factor.bit_length() + sum(bits[atom] for atom in atoms)

    for how, left, right in recipe.atoms:
        axes += how == "axis"
        bits.append(AXIS_BITS if how == "axis" else max(of(left), of(right)) + 1)
        if bits[-1] > MAX_BITS:
            raise ValueError("a number is too long")
    if any(of((at,)) > MAX_BITS for at in range(len(recipe.products))):
        raise ValueError("a number is too long")
    return axes


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


def _state() -> str:
    """Return a name for the rules as they are: it changes with every file of them."""
    home = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for folder in RULES:
        for entry in sorted(os.scandir(home / folder), key=lambda entry: entry.name):
            if entry.name.endswith(".py"):
                found = entry.stat()
                digest.update(f"{entry.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return f"recipes-{digest.hexdigest()[:16]}"
