"""The built-in catalogue: names people use for models, and the hyperparameters behind them. Works offline.

data/catalogue.jsonl is written by scripts/make_catalogue.py from the facts in scripts/facts/models.jsonl; each
entry has `name`, `aliases`, `repo` and `config`, the keys of its config.json that decide sizes.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from oomph import data
from oomph.errors import close_matches
from oomph.header import Source

_SPACES = re.compile(r"[\s_]+")


@cache
def _lines() -> list[str]:
    """Return one JSON object per model, as text: a look-up parses only the line it needs."""
    return data.read_text("catalogue.jsonl").splitlines()


@cache
def entries() -> list[dict[str, Any]]:
    """Return every entry, in the order of the file."""
    return [json.loads(line) for line in _lines()]


def _names(entry: dict[str, Any]) -> tuple[str, ...]:
    return (entry["name"], *entry["aliases"], entry["repo"].lower())


def _key(text: str) -> str:
    """Return a reference the way the catalogue spells it.

    >>> _key("Llama 3 8B "), _key("Qwen/Qwen-1_8B-Chat")
    ('llama-3-8b', 'qwen/qwen-1_8b-chat')
    """
    word = text.strip().lower()
    return word if "/" in word else _SPACES.sub("-", word)


def find(ref: str) -> Source | None:
    """Return the catalogued model of this name, alias or repo id; None if there is none."""
    key = _key(ref)
    spelled = json.dumps(key)[1:-1]
    for line in _lines():
        if spelled in line.lower() and key in _names(entry := json.loads(line)):
            notes = (f"catalogue: {entry['repo']}",)
            return Source(entry["name"], "catalogue", entry["config"], notes=notes, repo=entry["repo"])
    return None


def suggest(ref: str) -> str:
    """Return 'Did you mean ...?' for a name that is not in the catalogue, or ''."""
    return close_matches(_key(ref), [name for entry in entries() for name in _names(entry)])


def search(text: str) -> list[dict[str, Any]]:
    """Return the entries of which some name contains every word of `text`."""
    words = [_key(word) for word in text.split()]
    return [entry for entry in entries() if all(any(word in name for name in _names(entry)) for word in words)]
