"""Constants of data/constants.json, looked up for a device: measured ones with spread and n, and rules of a library.

Never fitted. What is not known for a device widens the upper bound to the widest seen anywhere, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from oomph import data

if TYPE_CHECKING:
    from oomph.devices import Device

FEW = 4  # sources named in one sentence
PER_MILLE = 1000


@dataclass(frozen=True)
class Constant:
    """A number of bytes: what to count on, what it is at least and at most, how often it was seen and where.

    `source` is "measured" or "rule" as in a ledger. `gap` says why `high` is above `n_bytes`; empty where it is not.
    """

    name: str
    n_bytes: int
    low: int
    high: int
    n: int
    source: str
    evidence: str
    gap: str = ""


@cache
def constant(name: str) -> dict[str, Any]:
    """Return one entry of data/constants.json."""
    entry: dict[str, Any] = json.loads(data.read_text("constants.json"))[name]
    return entry


def measured(name: str, device: Device | None) -> Constant:
    """Return a measured constant for a device, None for one of which nothing is known.

    What was seen on the device itself counts, the median of all times it was seen, and its upper bound is the most seen
    on any of its compute capability. Else devices of that compute capability stand for it, else all of them; then the
    upper bound is the most seen at all: contexts grow with the number of multiprocessors, so a small relative bounds
    nothing. What was seen where kernels are loaded in another way does not count.

    >>> from oomph.devices import find
    >>> a100 = measured("cuda_context", find("a100-80gb-sxm"))
    >>> a100.n_bytes // 2**20, a100.high // 2**20, a100.n
    (408, 501, 17)
    >>> measured("cuda_context", find("rtx-5080")).high // 2**20
    766
    """
    loading = device.kernel_loading if device else "lazy"
    rows = [row for row in constant(name)["seen"] if row.get("loading", loading) == loading]
    capability = device.compute_capability if device else ""
    relatives = [row for row in rows if row["compute_capability"] == capability]
    own = [row for row in rows if device and row["device"] == device.id]
    taken = relatives or rows
    high = max(row["high"] for row in (taken if own else rows))
    where = device.name if device else "an unknown device"
    if own:
        gap = "it grows with the kernels a job loads"
    elif relatives:
        gap = f"not measured on {where} itself: the most seen anywhere"
    else:
        gap = f"not measured on {where} or its kind: the most seen anywhere"
    return Constant(
        name, _median_low([row["low"] for row in own or taken for _ in range(row["n"])]),
        min(row["low"] for row in taken), high, sum(row["n"] for row in taken), "measured", _seen(taken), gap,
    )  # fmt: skip


def rule(name: str, device: Device | None) -> Constant:
    """Return a library's constant for a device's compute capability; its default and widest where there is no rule.

    >>> from oomph.devices import find
    >>> [rule("cublas_workspace", find(gpu)).n_bytes / 2**20 for gpu in ("rtx-4090", "h100")]
    [8.125, 32.0]
    """
    entry = constant(name)
    capability = device.compute_capability if device else ""
    for row in entry["rules"]:
        if capability and {capability, capability.split(".")[0]} & set(row["compute_capability"]):
            evidence = f"{entry['source']}: {row['why']}"
            gap = "depends on the version" if row["high"] > row["value"] else ""
            return Constant(name, row["value"], row["low"], row["high"], 0, "rule", evidence, gap)
    values = [row[key] for row in entry["rules"] for key in ("low", "high")]
    where = f"{device.name}" if device and capability else "a device of unknown kind"
    evidence = f"{entry['source']}: the default"
    return Constant(
        name, entry["default"], min(values), max(values), 0, "rule", evidence, f"no rule for {where}: the widest of all"
    )


def other_versions(allocated_bytes: int) -> Constant:
    """Return how much more a job may allocate under other versions of its libraries than those that are played.

    A job names no versions. The share is a round number above the most that published runs were higher by; it is
    evidence, no rule of anything.

    >>> other_versions(10**9).high
    5000000
    """
    entry = constant("other_versions")
    evidence = f"{entry['value'] / 10:g} % of what is allocated; seen: {entry['source']}"
    most = allocated_bytes * int(entry["value"]) // PER_MILLE
    return Constant("other_versions", 0, 0, most, entry["n"], "measured", evidence)


def _median_low(numbers: Sequence[int]) -> int:
    """Return the median, of an even number the lower one; `statistics` takes as long to import as half a weighing."""
    return sorted(numbers)[(len(numbers) - 1) // 2]


def _seen(rows: Sequence[dict[str, Any]]) -> str:
    """Return where rows come from, the first few of them."""
    named = "; ".join(f"{row['device']}: {row['source']}" for row in rows[:FEW])
    return named if len(rows) <= FEW else f"{named}; and {len(rows) - FEW} more in data/constants.json"
