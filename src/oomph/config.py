"""Reading a config.json that anyone may have written: every value is checked, every error names its fix.

`Config` answers the way transformers would: a key that is absent takes the class's default (told in
`assumptions`), a key that is null is null, old and new names of a key mean the same. It never returns a size
that is zero, negative, NaN, a string or absurdly large.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from oomph.errors import ConfigError

MAX_SIZE = 2**31  # no axis of any real tensor is longer
MAX_DEPTH = 4096  # layers of one stack
MAX_EXPERTS = 65536

# The methods below are called int, bool, str ... after what they return; these names stay free for annotations.
Whole: TypeAlias = int
Flag: TypeAlias = bool
Text: TypeAlias = str
Number: TypeAlias = float
Items: TypeAlias = list[Any]


class Config:
    """A view of one (possibly nested) config with its class's defaults and key aliases.

    `aliases` maps a key as transformers' class spells it to other spellings of it found in files.
    """

    def __init__(
        self,
        raw: Mapping[Text, Any],
        defaults: Mapping[Text, Any] | None = None,
        aliases: Mapping[Text, tuple[Text, ...]] | None = None,
        where: Text = "config.json",
        nested: Flag = False,
        assumed: dict[Text, Any] | None = None,
    ) -> None:
        self.raw = raw
        self.defaults = dict(defaults or {})
        self.aliases = dict(aliases or {})
        self.where = where
        self.nested = nested
        self.assumed: dict[Text, Any] = {} if assumed is None else assumed

    @property
    def model_type(self) -> Text:
        """The architecture's key, '' if absent."""
        found = self.raw.get("model_type", "")
        return found if isinstance(found, str) else ""

    def has(self, key: Text) -> Flag:
        """Tell whether the file itself spells this key, under any of its names."""
        return any(name in self.raw for name in (key, *self.aliases.get(key, ())))

    def get(self, key: Text) -> Any:
        """Return the raw value: the file's, else the class default, else None."""
        for name in (key, *self.aliases.get(key, ())):
            if name in self.raw:
                return self.raw[name]
        default = self.defaults.get(key)
        if default is not None:
            self.assumed[f"{self._prefix}{key}"] = default
        return default

    @property
    def _prefix(self) -> Text:
        return "" if self.where == "config.json" else f"{self.where}."

    def error(self, key: Text, problem: Text) -> ConfigError:
        """Return the error for a bad value of `key`."""
        return ConfigError(f"{self._prefix}{key} {problem}.", f"Correct {key} in {self.where.split('.')[0]}.json.")

    def _whole(self, key: Text, value: Any, low: Whole, high: Whole) -> Whole:
        if isinstance(value, float) and value.is_integer() and abs(value) < MAX_SIZE:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            shown = repr(value) if len(repr(value)) < 40 else type(value).__name__
            raise self.error(key, f"is {shown}, not a whole number")
        if not low <= value <= high:
            raise self.error(key, f"is {str(value)[:40]}, outside {low} to {high}")
        return value

    def int(self, key: Text, low: Whole = 1, high: Whole = MAX_SIZE) -> Whole:
        """Return a whole number in [low, high]."""
        value = self.get(key)
        if value is None:
            raise ConfigError(f"{self._prefix}{key} is missing.", f"Add {key} to {self.where}.")
        return self._whole(key, value, low, high)

    def optional_int(self, key: Text, low: Whole = 1, high: Whole = MAX_SIZE) -> Whole | None:
        """Return a whole number, or None when the key is null, or absent with a null class default."""
        value = self.get(key)
        return None if value is None else self._whole(key, value, low, high)

    def size(self, key: Text, high: Whole = MAX_SIZE) -> Whole:
        """Return a size that makes the model what it is: in a top-level config it must be spelled out."""
        if not self.nested and not self.has(key):
            raise ConfigError(
                f"{self.where} has no {key}, so this is not the whole configuration of a model.",
                f"Add {key}, or point oomph at the model's own config.json.",
            )
        return self.int(key, 1, high)

    def depth(self, key: Text) -> Whole:
        """Return a number of layers, which must be spelled out as a size must."""
        return self.size(key, MAX_DEPTH)

    def bool(self, key: Text, default: Flag = False) -> Flag:
        """Return a truth value; null and absent (with no class default) mean `default`."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or value in (0, 1):
            return bool(value)
        raise self.error(key, "is neither true nor false")

    def str(self, key: Text, default: Text = "") -> Text:
        """Return a string; null and absent mean `default`."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(key, "is not a string")
        return value

    def float(self, key: Text) -> Number:
        """Return a finite number."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MAX_SIZE:
            raise self.error(key, "is not a finite number")
        return float(value)

    def rate(self, key: Text, default: Number) -> Number:
        """Return a probability; null and absent mean `default`, which is not noted: no weight depends on it."""
        value = self.raw.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise self.error(key, "is not a number from 0 to 1")
        return float(value)

    def list(self, key: Text, most: Whole = MAX_EXPERTS) -> Items | None:
        """Return a list, or None when null or absent."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)):
            raise self.error(key, "is not a list")
        if len(value) > most:
            raise self.error(key, f"has {len(value)} entries, more than {most}")
        return list(value)

    def ints(self, key: Text, low: Whole = 0, high: Whole = MAX_SIZE) -> Items | None:
        """Return a list of whole numbers, or None when null or absent."""
        values = self.list(key)
        return None if values is None else [self._whole(key, value, low, high) for value in values]

    def layer_list(self, key: Text, layers: Whole) -> Items | None:
        """Return a list with exactly one entry per layer, or None when null or absent."""
        values = self.list(key, MAX_DEPTH)
        if values is not None and len(values) != layers:
            raise self.error(key, f"has {len(values)} entries for {layers} layers")
        return values

    def divide(self, total: Whole, by: Whole, what: Text) -> Whole:
        """Return total / by, an error when heads (or groups) do not divide the width."""
        if total % by:
            raise ConfigError(f"{total} cannot be divided into {by} {what}.", f"Check {self.where}.")
        return total // by

    def section(self, key: Text) -> Mapping[Text, Any]:
        """Return a nested mapping, empty when null or absent."""
        value = self.raw.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.error(key, "is not an object")
        return value

    def sub(
        self,
        key: Text,
        defaults: Mapping[Text, Any] | None = None,
        aliases: Mapping[Text, tuple[Text, ...]] | None = None,
    ) -> Config:
        """Return the nested config under `key` (empty when absent), with its own class's defaults."""
        where = f"{self._prefix}{key}"
        return Config(self.section(key), defaults, aliases, where, nested=True, assumed=self.assumed)
