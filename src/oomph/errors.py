"""Every error oomph shows to a user: the problem, then the fix. One root, one exit code each."""

from __future__ import annotations

from collections.abc import Iterable


class OomphError(Exception):
    """The root of all errors a user can cause or meet. `exit_code` is what the command line returns."""

    exit_code = 2

    def __init__(self, problem: str, fix: str = "") -> None:
        super().__init__(f"{problem} {fix}".strip())
        self.problem = problem
        self.fix = fix


class UsageError(OomphError):
    """The question itself is off: an unknown name, an option that makes no sense (exit 2)."""


class UnsupportedError(OomphError):
    """A question oomph understands but cannot answer exactly, so it does not answer it (exit 3)."""

    exit_code = 3


class ConfigError(OomphError):
    """A config.json that no real model could have: missing, negative, NaN, wrong type (exit 4)."""

    exit_code = 4


class SourceError(OomphError):
    """A file or server that cannot be read: missing, damaged, gated, offline (exit 4)."""

    exit_code = 4


def close_matches(word: str, known: Iterable[str], most: int = 3) -> str:
    """Return ' Did you mean a, b?' for the closest known words, or ''.

    >>> close_matches("lama-3-8b", ["llama-3-8b", "gpt2"])
    'Did you mean llama-3-8b?'
    """
    found = closest(word.lower(), known, most)
    return f"Did you mean {', '.join(found)}?" if found else ""


def closest(word: str, known: Iterable[str], most: int) -> list[str]:
    """Return the known words that are spelled most like a word, the closest first; none that is not like it at all."""
    import difflib  # only on the way to an error

    return difflib.get_close_matches(word, list(known), n=most, cutoff=0.55)


def letters(word: str) -> str:
    """Return what words are compared by where case and signs between them do not count.

    >>> letters("LLaMA-Factory") == letters("llama_factory")
    True
    """
    return "".join(filter(str.isalnum, word.lower()))
