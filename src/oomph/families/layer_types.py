"""Which kind of layer stands where: the lists hybrid models spell out, and the names old configs use in them."""

from __future__ import annotations

from collections.abc import Collection
from itertools import cycle, islice

from oomph.config import Config

LINEAR, FULL, HYBRID = "linear_attention", "full_attention", "hybrid"
SLIDING = "sliding_attention"

EXAONE_INTERVAL = 4  # without a pattern every fourth layer is full

# What configs wrote before transformers 5.
RENAMED = {"mamba": LINEAR, "attention": FULL}


def checked(config: Config, key: str, kinds: list[object], allowed: Collection[str]) -> list[str]:
    """Return the kinds under their present names; any other than `allowed` is an error."""
    named = [RENAMED.get(kind, kind) if isinstance(kind, str) else "" for kind in kinds]
    for kind, raw in zip(named, kinds, strict=True):
        if kind not in allowed:
            raise config.error(key, f"has a layer of kind {str(raw)[:40]!r}, not one of {', '.join(allowed)}")
    return named


def listed(
    config: Config, layers: int, key: str = "layer_types", allowed: Collection[str] = (LINEAR, FULL)
) -> list[str] | None:
    """Return the kind of every layer as the config lists them under `key`, None if it does not."""
    kinds = config.layer_list(key, layers)
    return None if kinds is None else checked(config, key, kinds, allowed)


def full_every(layers: int, interval: int) -> list[str]:
    """Return linear attention with full attention in every `interval`-th layer.

    >>> full_every(4, 2)
    ['linear_attention', 'full_attention', 'linear_attention', 'full_attention']
    """
    return [LINEAR if (index + 1) % interval else FULL for index in range(layers)]


def full_after_sliding(layers: int, interval: int) -> list[str]:
    """Return sliding attention with full attention in every `interval`-th layer.

    >>> full_after_sliding(3, 2)
    ['sliding_attention', 'full_attention', 'sliding_attention']
    """
    return [SLIDING if (index + 1) % interval else FULL for index in range(layers)]


def sliding_after_full(layers: int, interval: int) -> list[str]:
    """Return sliding attention with full attention in the first layer and every `interval`-th one after it.

    >>> sliding_after_full(3, 2)
    ['full_attention', 'sliding_attention', 'full_attention']
    """
    return [SLIDING if index % interval else FULL for index in range(layers)]


def patterned(config: Config, key: str, layers: int) -> list[str]:
    """Return kinds as EXAONE's configs say them: every how many layers one is full (4), or a letter for each (LLLG)."""
    pattern = config.get(key)
    if isinstance(pattern, str) and pattern and set(pattern) <= {"L", "G"}:
        return [SLIDING if letter == "L" else FULL for letter in islice(cycle(pattern), layers)]
    return full_after_sliding(layers, config.optional_int(key) or EXAONE_INTERVAL)


def windows(config: Config, kinds: list[str]) -> tuple[list[int | None], tuple[str, ...]]:
    """Return the window of every layer, None where attention is full, and what of them cannot be played.

    A sliding layer without a window, as a null sliding_window leaves it, is an error in the real class.
    """
    window = config.optional_int("sliding_window")
    if window is None:
        return [None] * len(kinds), ("sliding layers without a window",) * (SLIDING in kinds)
    return [window if kind == SLIDING else None for kind in kinds], ()
