"""Recipes of steps kept between commands, in the user's cache folder.

A step that was played once need not be played again for other sizes. Files are small, written whole or not at all, and
belong to one state of oomph's rules; what cannot be read or written is simply played again. OOMPH_CACHE names another
folder; empty, it keeps nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from oomph.recipe import Class, Part, Recipe, Sums

RULES = ("blocks", "ops", "optimizers", "programs", "tape", ".")  # folders whose code decides what a step is
MAX_BYTES = 2**22  # of one file; a recipe takes some sixty thousand
MAX_FILES = 512
BRANCHES = 16  # recipes of one structure that are kept


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
        return self.folder and self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def _read(self, key: str) -> list[Recipe]:
        path = self._path(key)
        if path is None:
            return []
        try:
            with open(path, "rb") as file:
                kept = json.loads(file.read(MAX_BYTES))
            return [_recipe(row) for row in kept["recipes"]] if kept["key"] == key else []
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return []

    def _write(self, key: str, recipes: list[Recipe]) -> None:
        path = self._path(key)
        if path is None:
            return
        text = json.dumps({"key": key, "recipes": [list(vars(one).values()) for one in recipes]}, separators=(",", ":"))
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if sum(1 for _ in os.scandir(path.parent)) >= MAX_FILES:
                return
            part = path.with_suffix(f".{os.getpid()}")
            part.write_text(text)
            part.replace(path)


def _recipe(row: list[Any]) -> Recipe:
    """Return a recipe as it was written; raises what a damaged one makes happen."""
    atoms, products, guards, classes, parts, *rest = row
    found = Recipe(
        atoms, products, guards, tuple(Class(*one) for one in classes), tuple(Part(*one) for one in parts), *rest
    )
    axes = sum(how == "axis" for how, _, _ in found.atoms)
    Sums(found, [1] * axes).class_bytes()
    return found


def shelf() -> Shelf:
    """Return the shelf of this process's user."""
    named = os.environ.get("OOMPH_CACHE")
    if named == "":
        return Shelf(None)
    return Shelf(Path(named) / _state() if named else _cache_home() / "oomph" / _state())


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
