"""An engine's own flags, read into its job: by the names and types of the fields that `flag` made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from oomph.engines.base import Engine, ServeJob
from oomph.errors import UnsupportedError, UsageError, close_matches
from oomph.units import parse_amount

MOST_WORDS, MOST_LETTERS = 2_000, 200_000  # of a command line; no real one comes near
SHOWN = 60  # letters of a word from outside that an error shows
SWITCHES = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}
_NUMBER = re.compile(r"([+-]?(?:\d{1,15}(?:\.\d{0,9})?|\.\d{1,9}))([a-zA-Z]?)")


@dataclass(frozen=True)
class Read:
    """What an engine's words say; `words` are those that are no flags, `passed_over` the flags that move no memory."""

    job: ServeJob
    model: str | None
    words: tuple[str, ...]
    passed_over: tuple[str, ...]


class Spelling(NamedTuple):
    """A flag: the field it sets, the type of that, the value of a switch that is thrown by it; whether it adds to what
    was said before, and what it says where it stands alone."""

    field: str
    hint: Any
    thrown: bool | None
    adds: bool = False
    alone: str | None = None


def read_flags(engine: Engine, words: Sequence[str], job: ServeJob | None = None) -> Read:
    """Return the job that an engine's own words ask for, on top of a job.

    Raises UsageError for a flag or value that the engine does not have, UnsupportedError for one that moves memory and
    is not modelled.
    """
    if len(words) > MOST_WORDS or sum(map(len, words)) > MOST_LETTERS:
        raise UsageError(f"That command line has {len(words)} words.", f"Write at most {MOST_WORDS}.")
    found = _Reader(engine)
    found.read(list(words))
    changed: Any = found.values
    model = f"{found.model}:{found.file}" if found.model and found.file else found.model
    return Read(replace(job or engine.job(), **changed), model, tuple(found.left), tuple(found.passed_over))


def read_environment(engine: Engine, said: Mapping[str, str], job: ServeJob) -> tuple[ServeJob, tuple[str, ...]]:
    """Return the job with what environment variables set, and the variables that move no memory."""
    known = spellings(engine.job)
    values, passed_over = {}, []
    for name, value in said.items():
        reason = engine.refused.get(f"{name}={value}") or engine.refused.get(name)
        if reason is not None:
            raise UnsupportedError(f"{engine.name}'s {name} is not modelled: {reason}.")
        if name in known:
            values[known[name].field] = _value(engine, name, known[name].hint, value)
        elif _arity(engine, name) is not None or name.startswith(HARMLESS_VARIABLES):
            passed_over.append(name)
        else:
            raise _unknown(engine, name, [each for each in known if not each.startswith("-")])
    changed: Any = values
    return replace(job, **changed), tuple(passed_over)


# Tokens, caches on disk, logging: nothing that a process keeps on a device.
HARMLESS_VARIABLES = (
    "HF_", "HUGGING_FACE_", "HUGGINGFACE_", "TRANSFORMERS_", "TOKENIZERS_", "NCCL_DEBUG", "GLOO_", "OMP_", "MKL_",
    "PYTHON", "PATH", "LD_", "CUDA_HOME", "CUDA_DEVICE_ORDER", "XDG_", "TRITON_CACHE", "no_proxy", "http_proxy",
    "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "TZ", "LANG", "LC_",
)  # fmt: skip


_SPELLINGS: dict[type[ServeJob], dict[str, Spelling]] = {}


def spellings(kind: type[ServeJob]) -> dict[str, Spelling]:
    """Return every name of a flag with what it sets."""
    if kind not in _SPELLINGS:
        _SPELLINGS[kind] = _spellings(kind)
    return _SPELLINGS[kind]


def _spellings(kind: type[ServeJob]) -> dict[str, Spelling]:
    hints = get_type_hints(kind)
    found: dict[str, Spelling] = {}
    for each in fields(kind):
        hint = _inner(hints[each.name])
        for name in each.metadata.get("flags", ()):
            on, _, off = name.partition("/")
            switch = hint is bool
            how = each.metadata.get("adds", False), each.metadata.get("alone")
            found[on] = Spelling(each.name, hint, True if switch else None, *how)
            if switch and (off or on.startswith("--")):
                found[off or f"--no-{on[2:]}"] = Spelling(each.name, hint, False)
    return found


def spelled(engine: Engine, field: str, value: Any) -> list[str]:
    """Return the words that set a field; none for one that the command line does not have."""
    names = [name for name, each in spellings(engine.job).items() if each.field == field]
    thrown = [name for name in names if spellings(engine.job)[name].thrown is value]
    if isinstance(value, bool):
        return thrown[:1]
    return [names[0], *map(str, value if isinstance(value, tuple) else (value,))] if names else []


class _Reader:
    """The state of reading: the words that are left, and what they said so far."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.known = spellings(engine.job)
        self.values: dict[str, Any] = {}
        self.model: str | None = None
        self.file = ""
        self.left: list[str] = []
        self.passed_over: list[str] = []

    def read(self, words: list[str]) -> None:
        words.reverse()
        while words:
            word = words.pop()
            if not word.startswith("-") or word in ("-", "--"):
                self.left += [word] if word != "--" else []
                continue
            name, joined, value = word.partition("=")
            if self._attached(name):  # -O3
                name, joined, value = word[:2], "=", word[2:]
            if joined:
                words.append(value)
            self._flag(_normal(name), bool(joined), words)

    def _attached(self, name: str) -> bool:
        """Tell whether a word is a flag of one letter with its value right behind it."""
        there = {*self.known, *self.engine.refused, *self.engine.models}
        return name[1:2] != "-" and name[2:3].isdigit() and name[:2] in there and name not in there

    def _flag(self, name: str, joined: bool, words: list[str]) -> None:
        """Read one flag whose value, if `joined`, is the next word for sure."""
        arity = _arity(self.engine, name)
        if name in self.engine.models:
            self.model = str(_value(self.engine, name, str, self._next(name, words)))
        elif f"{name}:" in self.engine.models:
            self.file = str(_value(self.engine, name, str, self._next(name, words)))
        elif name in self.known:
            self._known(name, joined, words)
        elif name in self.engine.refused:
            raise UnsupportedError(f"{self.engine.name}'s {name} is not modelled: {self.engine.refused[name]}.")
        elif arity is not None:
            self.passed_over.append(name)
            if joined or arity:
                self._next(name, words)
            if arity == MANY:
                list(self._more(words))
        elif "." in name and (parent := name.partition(".")[0]) in self.known:
            self._dotted(parent, name.split(".")[1:], self._next(name, words))
        else:
            raise _unknown(self.engine, name, [*self.known, *self.engine.models])

    def _known(self, name: str, joined: bool, words: list[str]) -> None:
        field, hint, thrown, adds, alone = self.known[name]
        if thrown is not None:
            said = _value(self.engine, name, bool, words.pop()) if joined else True
            self.values[field] = said if thrown else not said
        elif get_origin(hint) is tuple:
            item = get_args(hint)[0]
            texts = [self._next(name, words), *([] if joined else self._more(words))]
            split = [part for text in texts for part in (text.split(",") if item is not str else [text])]
            added = tuple(_value(self.engine, name, item, part) for part in split)
            self.values[field] = (*self.values.get(field, ()), *added)
        elif alone is not None and not joined and (not words or words[-1].startswith("-")):
            self.values[field] = alone
        else:
            value = _value(self.engine, name, hint, self._next(name, words))
            self.values[field] = f"{self.values[field]},{value}" if adds and field in self.values else value

    def _next(self, name: str, words: list[str]) -> str:
        if not words or _normal(words[-1].partition("=")[0]) in self.known:
            raise UsageError(f"{name} has no value.", f"Write {name} and what it is to be.")
        return words.pop()

    def _more(self, words: list[str]) -> Iterator[str]:
        while words and not words[-1].startswith("-"):
            yield words.pop()

    def _dotted(self, parent: str, path: list[str], text: str) -> None:
        """Put a value into the JSON object of a flag, as in --speculative-config.method ngram."""
        field = self.known[parent].field
        whole = _object(self.values.get(field) or "{}", parent)
        inner = whole
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise UsageError(f"{parent}.{'.'.join(path)} is set twice, as a value and as an object.")
        try:
            inner[path[-1]] = json.loads(text)
        except (ValueError, RecursionError):
            inner[path[-1]] = text
        self.values[field] = json.dumps(whole)


def _object(text: str, name: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{name} is no JSON object: {text[:SHOWN]!r}.")
    return found


MANY = 2


def _arity(engine: Engine, name: str) -> int | None:
    """Return how many values a harmless flag takes: 0, 1 or MANY; None for one that is not known to be harmless."""
    for ending, arity in (("", 0), ("=", 1), ("=+", MANY)):
        if name + ending in engine.harmless:
            return arity
    return None


def _normal(name: str) -> str:
    """Return a long flag as it is written down: parsers of engines take _ for -."""
    return name.replace("_", "-") if name.startswith("--") else name


def _unknown(engine: Engine, name: str, known: Sequence[str]) -> UsageError:
    written = {each.lower(): each for each in known}
    close = close_matches(name[:SHOWN], written)
    hint = re.sub(r"[\w-]+(?=[,?])", lambda found: written.get(found[0], found[0]), close)
    return UsageError(
        f"{name[:SHOWN]!r} is nothing that oomph reads of {engine.name}'s command line.",
        hint or "Leave it out if it moves no memory; docs/serve.md says what is read.",
    )


def _inner(hint: Any) -> Any:
    """Return a type without None."""
    kept = [each for each in get_args(hint) if each is not NoneType]
    return kept[0] if NoneType in get_args(hint) and len(kept) == 1 else hint


def _value(engine: Engine, name: str, hint: Any, text: str) -> Any:
    """Return a word as a flag's type reads it."""
    if "$" in text or "`" in text:
        raise UsageError(f"{name} {text[:SHOWN]!r} is filled in by your shell.", "Write what it stands for.")
    if get_origin(hint) is Literal:
        choices = {str(each): each for each in get_args(hint)}
        if text not in choices:
            some = f"Choose one of {', '.join(choices)}."
            raise UsageError(f"{name} {text[:SHOWN]!r} is none.", close_matches(text[:SHOWN], choices) or some)
        return choices[text]
    if hint is bool:
        if text.lower() not in SWITCHES:
            raise UsageError(f"{name} {text[:SHOWN]!r} is neither true nor false.")
        return SWITCHES[text.lower()]
    return _number(engine, name, hint, text) if hint in (int, float) else text


def _number(engine: Engine, name: str, hint: type[int] | type[float], text: str) -> int | float:
    found = _NUMBER.fullmatch(text.strip())
    if found is None or (hint is int and "." in found[1] and not found[2]):
        raise UsageError(f"{name} {text[:SHOWN]!r} is not a {'whole ' * (hint is int)}number.")
    if not found[2]:
        return hint(found[1])
    if found[2] not in engine.suffixes:
        meant = f"Write {parse_amount(text)}." if re.fullmatch(r"[\d.]+[kKmM]", text) else ""
        raise UsageError(f"{engine.name} does not read {name} {text[:SHOWN]!r}.", meant)
    return int(float(found[1]) * engine.suffixes[found[2]])


def field_of(engine: Engine, name: str) -> str | None:
    """Return the field that people mean by a name: a flag with or without its dashes, or the field's own."""
    known = spellings(engine.job)
    for word in (name, f"--{_normal('--' + name)[2:]}", f"-{name}"):
        if word in known:
            return known[word].field
    own = name.replace("-", "_")
    return own if own in {each.name for each in fields(engine.job)} else None


def width(kind: type[ServeJob]) -> str | None:
    """Return the field that says how many devices share each layer; None where the engine takes those it is given."""
    return next((each.name for each in fields(kind) if each.name in ("tensor_parallel", "num_shard")), None)


def integers(kind: type[ServeJob]) -> list[str]:
    """Return the fields of a job that may be whole numbers."""
    hints = get_type_hints(kind)
    return [each.name for each in fields(kind) if int in (hints[each.name], *get_args(hints[each.name]))]
