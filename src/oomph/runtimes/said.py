"""A config's keys and values, and how they are asked for; what is of the wrong kind is an error that names the key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from oomph.errors import ConfigError, UnsupportedError, close_matches

MOST = 2**31


def shown(value: Any) -> str:
    """Return a value for an error, cut short if it is text."""
    return repr(value if isinstance(value, (int, float)) else str(value)[:40])


@dataclass(frozen=True)
class Said:
    """A config's keys and values; `where` names it in errors."""

    where: str
    values: Mapping[str, Any]

    def whole(self, key: str) -> int:
        """Return a whole number of at least 1."""
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
            raise ConfigError(f"{self.where}: {key} is {shown(value)}.", "Give a whole number of at least 1.")
        return value

    def switch(self, key: str) -> bool:
        """Return True or False; what is null is not said."""
        value = self.values.get(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where}: {key} is {shown(value)}.", "Give true or false.")
        return value

    def rate(self, key: str) -> float:
        """Return a number from 0 to below 1."""
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise ConfigError(f"{self.where}: {key} is {shown(value)}.", "Give a number from 0 to below 1.")
        return float(value)

    def one_of_numbers(self, key: str, known: tuple[int, ...]) -> int:
        """Return one of the numbers that are read."""
        value = self.whole(key)
        if value not in known:
            fix = f"oomph reads {' or '.join(map(str, known))}."
            raise UnsupportedError(f"{self.where}: {key} {value} is not modelled.", fix)
        return value

    def one_of(self, key: str, known: Mapping[str, Any]) -> Any:
        """Return what a word means."""
        value = self.values[key]
        if not isinstance(value, str) or value not in known:
            hint = close_matches(str(value)[:40], known) or f"oomph reads {', '.join(known)}."
            raise UnsupportedError(f"{self.where}: {key} {str(value)[:40]!r} is not modelled.", hint)
        return known[value]


Reader = Callable[[Said, str], dict[str, Any]]
