"""All levers, one file per topic; within a price the order is that in which plans try them."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from oomph.planning.lever import Lever

TOPICS = ("loop", "loss", "kernels", "attention", "recompute", "precision", "method", "optimizer", "data")


@cache
def levers() -> tuple[Lever, ...]:
    """Return every lever, the cheapest first."""
    found = [lever for topic in TOPICS for lever in import_module(f"{__name__}.{topic}").LEVERS]
    return tuple(sorted(found, key=lambda lever: lever.price))
