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
from oomph.errors import closest
from oomph.header import Source

_SPACES = re.compile(r"[\s_]+")
_ENDINGS = re.compile(
    r"(-(hf|gguf|gptq|awq|bnb|mlx|unsloth|dynamic|int[48]|fp8|fp16|bf16|[2-8]bit|[1-8](\.\d\d?)?bpw|exl[23]|[whg]\d+(a\d+)?))+$"
)
SHOWN = 3  # names in a message


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
    """Return 'Did you mean ...?' for a name that is not in the catalogue, or ''.

    Models whose name begins like it are meant before those that are only spelled alike, each told once.

    >>> suggest("phi4-mini-instruct"), suggest("yi-1.5")
    ('Did you mean phi-4-mini-instruct?', 'Did you mean yi-1.5-9b-chat?')
    """
    key = _key(ref)
    model_of = {name: entry["name"] for entry in entries() for name in _names(entry)}
    begin = (
        sorted({model for name, model in model_of.items() if name.rpartition("/")[2].startswith(key)}, key=len)
        if key
        else []
    )
    if len(begin) > SHOWN:
        return f"Did you mean {', '.join(begin[:SHOWN])}? `oomph models {key}` lists them all."
    found = begin or dict.fromkeys(map(model_of.__getitem__, closest(key, model_of, 2 * SHOWN)))
    return f"Did you mean {', '.join(list(found)[:SHOWN])}?" if found else ""


def copied(repo: str) -> str | None:
    """Return the model of the catalogue that a repository, by its name, is a quantised or renamed copy of.

    >>> copied("unsloth/llama-3-8b-bnb-4bit"), copied("TheBloke/Llama-2-7B-Chat-GPTQ"), copied("me/mine")
    ('llama-3-8b', 'llama-2-7b-chat', None)
    """
    plain = _plain(repo)
    return next((entry["name"] for entry in entries() if plain in map(_plain, _names(entry))), None)


def _plain(name: str) -> str:
    """Return a name without its owner and without endings that say how weights are stored."""
    return _ENDINGS.sub("", name.rpartition("/")[2].lower())


def search(text: str) -> list[dict[str, Any]]:
    """Return the entries of which some name contains every word of `text`."""
    words = [_key(word) for word in text.split()]
    return [entry for entry in entries() if all(any(word in name for name in _names(entry)) for word in words)]
