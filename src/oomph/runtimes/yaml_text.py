"""Reading YAML (and JSON, which is YAML) that anyone may have written: bounded, without references, each key once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oomph.errors import ConfigError, UnsupportedError
from oomph.sources.reader import cannot_read, open_regular
from oomph.units import MIB

MAX_BYTES = 1 * MIB  # a training config is some kilobytes
MAX_DEPTH = 16
MAX_NODES = 20_000


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a file; raises ConfigError for anything else."""
    with open_regular(path) as file:
        try:
            data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise cannot_read(path, error) from None
    return parse_mapping(data, path.name)


def parse_mapping(data: bytes, where: str) -> dict[str, Any]:
    """Return the mapping that a text holds; `where` names it in errors.

    >>> parse_mapping(b"bf16: true", "train.yaml")
    {'bf16': True}
    """
    try:
        import yaml
    except ImportError:
        raise UnsupportedError("Reading YAML needs pyyaml.", "Do: pip install pyyaml") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{where} is larger than a training config ever is.", f"At most {MAX_BYTES} bytes are read.")
    try:
        text = data.decode("utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _check(node, where, yaml)
        found = yaml.SafeLoader(text).get_single_data()
    except UnicodeDecodeError:
        raise ConfigError(f"{where} is not UTF-8.", "Save it as UTF-8.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{where} is no YAML: {_problem(error)}.", "Correct the file.") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"{where} is no mapping of names to values.", "Give the config of a training run.")
    return found


def _check(node: Any, where: str, yaml: Any) -> None:
    """Refuse a tree that is too deep or too large, that refers to itself or says a key twice."""
    seen: set[int] = set()
    waiting = [(node, 1)]
    while waiting:
        one, depth = waiting.pop()
        if one is None:
            continue
        if id(one) in seen:
            raise ConfigError(f"{where} refers to a part of itself.", "Write the values out instead of anchors.")
        seen.add(id(one))
        if depth > MAX_DEPTH or len(seen) > MAX_NODES:
            raise ConfigError(f"{where} is deeper or longer than a training config ever is.", "Correct the file.")
        if isinstance(one, yaml.MappingNode):
            keys = [key.value for key, _ in one.value if isinstance(key, yaml.ScalarNode)]
            if len(set(keys)) < len(keys):
                twice = next(key for key in keys if keys.count(key) > 1)
                raise ConfigError(f"{where} says {twice[:60]!r} twice.", "Leave one of them.")
            waiting += [(each, depth + 1) for pair in one.value for each in pair]
        elif isinstance(one, yaml.SequenceNode):
            waiting += [(each, depth + 1) for each in one.value]


def _problem(error: Exception) -> str:
    """Return what is wrong, and where if the parser says it."""
    mark = getattr(error, "problem_mark", None)
    said = " ".join(str(getattr(error, "problem", None) or error).split())[:120]
    return f"{said}, line {mark.line + 1}, column {mark.column + 1}" if mark else said
