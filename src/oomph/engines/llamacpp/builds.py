"""What older builds of llama.cpp reserve otherwise, by their numbers and by their time.

A change is known by the pull request that made it; between the last build that is known to be without it and the first
that is known to have it, builds are taken to be without it: they took more. Sources: the pull requests, and issues that
name builds: 14795 (b5944, July 2025), 17300 (b7079, November 2025), 23527 (b9272, May 2026), 24713 (b9670, June 2026).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from oomph.engines.llamacpp.graph_setup import Build


class Change(NamedTuple):
    """A change of what is reserved: the first build known to have it, its fields of Build, where it was made."""

    since: int
    fields: tuple[str, ...]
    source: str


CHANGES = (
    Change(7079, ("row_writes",), "pull request 14959, August 2025"),
    Change(9272, ("embd_leaf", "values_first"), "pull request 18898, January 2026"),
    Change(9272, ("rotations",), "pull request 21038, April 2026"),
    Change(9670, ("mask_f16",), "pull request 23764, May 2026"),
    Change(
        11549,
        ("mixed", "whole_states", "copies_unused", "kernel_copies", "fused", "image_mask_f16"),
        "the debug listing of build 11549, and llama.cpp 0c1e57098",
    ),
)
ONE_OUTPUT_SINCE = 9670  # pull request 23861, June 2026: a server reserves logits of one token for each slot
ROWS_LATE = range(9670, 11549)  # builds whose models with prediction layers drop rows after the last layer
NEWEST = Build()


def build_of(number: int | None) -> Build:
    """Return what a build reserves, None the newest.

    >>> build_of(8000).mask_f16, build_of(8000).row_writes
    (False, True)
    """
    if number is None:
        return NEWEST
    without = {name: False for change in CHANGES if number < change.since for name in change.fields}
    return replace(NEWEST, **without, late_rows=number in ROWS_LATE)


def all_outputs(number: int | None) -> bool:
    """Tell whether a build's server makes room for the logits of every token of a batch."""
    return number is not None and number < ONE_OUTPUT_SINCE


# Builds by their time, for logs that do not say their number.
EARLY_2025 = build_of(5944)
LATE_2025 = build_of(7079)
EARLY_2026 = replace(LATE_2025, embd_leaf=True, values_first=True)
