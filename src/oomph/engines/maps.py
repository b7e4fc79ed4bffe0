"""Which contexts and how many requests a served model has room for: a table of both, the arithmetic on whole arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from oomph.answer import Subject
from oomph.engines.base import Deployment, Engine, ServeJob
from oomph.engines.checks import well_asked
from oomph.engines.serving import serve
from oomph.errors import UsageError
from oomph.ledger import SCHEMA_VERSION, Ledger

if TYPE_CHECKING:
    from oomph.devices import Device

STATUSES = ("fits", "tight", "too_big", "refused")  # the last: the engine does not take it, whatever memory there is
FIRST_CONTEXT = 1024
MOST_CONTEXT, MOST_CONCURRENCY = 2**20, 2**9  # of a map whose axes are not named
MOST_CELLS = 2**20


@dataclass(frozen=True)
class ServeMap:
    """Rows are contexts, columns numbers of requests; `status` indexes STATUSES.

    `share` is how much of the room requests would take on the fullest device: 1 is all of it, infinite where there is
    none at all (null in JSON).
    """

    ledger: Ledger
    contexts: tuple[int, ...]
    concurrencies: tuple[int, ...]
    status: tuple[tuple[int, ...], ...]
    share: tuple[tuple[float, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the versioned JSON form."""
        from oomph import __version__

        return {
            "schema_version": SCHEMA_VERSION,
            "oomph_version": __version__,
            "job": self.ledger.job,
            "model": self.ledger.model,
            "device": self.ledger.device,
            "contexts": list(self.contexts),
            "concurrencies": list(self.concurrencies),
            "status": [[STATUSES[cell] for cell in row] for row in self.status],
            "share": [[round(cell, DIGITS) if isfinite(cell) else None for cell in row] for row in self.share],
            "assumptions": list(self.ledger.assumptions),
            "warnings": list(self.ledger.warnings),
        }


DIGITS = 4


def serve_map(
    found: Subject,
    engine: Engine,
    job: ServeJob,
    devices: Sequence[Device],
    contexts: Sequence[int] = (),
    concurrencies: Sequence[int] = (),
) -> ServeMap:
    """Return the map of a served model; without axes powers of two, up to what the engine takes.

    Raises UsageError without a device or for more cells than anybody looks at, and what the engine raises of the job.
    """
    if not devices:
        raise UsageError("A map is of what fits on a device.", "Name one: --gpu rtx-4090.")
    well_asked(engine, job, devices)
    deployed = engine.deploy(found, job, devices)
    contexts = tuple(contexts) or _powers(FIRST_CONTEXT, _longest(found, deployed))
    limit = deployed.limits.get("concurrency")
    concurrencies = tuple(concurrencies) or _powers(1, min(limit.most if limit else MOST_CONCURRENCY, MOST_CONCURRENCY))
    if len(contexts) * len(concurrencies) > MOST_CELLS:
        raise UsageError(f"That map has {len(contexts)} x {len(concurrencies)} cells.", f"Ask for {MOST_CELLS:,}.")
    try:
        status, share = (array.tolist() for array in cells(deployed, contexts, concurrencies))
    except ImportError:  # oomph is installed without numpy: one pair after the other
        pairs = [[_cell(deployed, context, number) for number in concurrencies] for context in contexts]
        status, share = ([[cell[at] for cell in row] for row in pairs] for at in (0, 1))
    return ServeMap(
        serve(found, engine, job, devices), contexts, concurrencies, tuple(map(tuple, status)), tuple(map(tuple, share))
    )


def _cell(deployed: Deployment, context: int, concurrency: int) -> tuple[int, float]:
    """Return status and share of one pair."""
    status, share = 0, 0.0
    for each in deployed.known:
        needed, room = int(each.needs(context, concurrency)), each.room_bytes or 0
        status = max(status, 2 if needed > room else 1 if needed > each.safe_room_bytes else 0)
        share = max(share, needed / room if room > 0 else inf)
    return status if deployed.within(context, concurrency) else STATUSES.index("refused"), share


def cells(deployed: Deployment, contexts: Sequence[int], concurrencies: Sequence[int]) -> tuple[Any, Any]:
    """Return status and share of every pair as numpy arrays, contexts down, concurrencies across."""
    import numpy as np

    down, across = np.array(contexts, np.int64)[:, None], np.array(concurrencies, np.int64)[None, :]
    status = np.zeros(np.broadcast_shapes(down.shape, across.shape), np.int64)
    share = np.zeros(status.shape)
    for each in deployed.known:
        needed = each.needs(down, across)
        room, safe = each.room_bytes or 0, each.safe_room_bytes
        status = np.maximum(status, np.where(needed > room, 2, np.where(needed > safe, 1, 0)))
        share = np.maximum(share, needed / room if room > 0 else np.inf)
    status = np.where(deployed.within(down, across), status, STATUSES.index("refused"))
    return status, share


def _longest(found: Subject, deployed: Deployment) -> int:
    """Return the longest context worth a row."""
    limit = deployed.limits.get("context")
    known = [most for most in (limit.most if limit else None, found.model.context_length) if most]
    return min([MOST_CONTEXT, *known])


def _powers(first: int, last: int) -> tuple[int, ...]:
    """Return powers of two from the first on, and the last whatever it is.

    >>> _powers(1, 6), _powers(1024, 512)
    ((1, 2, 4, 6), (512,))
    """
    found = []
    while first < last:
        found.append(first)
        first *= 2
    return (*found, last)
