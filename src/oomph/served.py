"""What a ledger says of a served model beyond its items: each kind of device, the engine's limits, single changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Held:
    """What one device holds, or each of `count` equal ones.

    `room_bytes` is what is left for requests (None: on an unknown device, or in the machine's own memory), of which
    `safe_room_bytes` are certain and `needed_bytes` are what the requests of the job take.
    """

    name: str
    count: int
    n_bytes: int
    safe_bytes: int
    needed_bytes: int
    room_bytes: int | None = None
    safe_room_bytes: int | None = None
    capacity_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the share as JSON knows it."""
        return {
            "name": self.name,
            "count": self.count,
            "bytes": self.n_bytes,
            "safe_bytes": self.safe_bytes,
            "needed_bytes": self.needed_bytes,
            "room_bytes": self.room_bytes,
            "safe_room_bytes": self.safe_room_bytes,
            "capacity_bytes": self.capacity_bytes,
        }


@dataclass(frozen=True)
class Bound:
    """The most of `over` (context, concurrency) that the engine serves whatever memory there is, and why."""

    over: str
    most: int
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Return the bound as JSON knows it."""
        return {"over": self.over, "most": self.most, "why": self.why}


@dataclass(frozen=True)
class SingleChange:
    """One change of a job: what it is, the words that ask for it, and what the fullest device then lacks or has left.

    `saved_bytes` is how much less, or how much more room, that device then has; `margin_bytes` what is left there.
    """

    title: str
    words: tuple[str, ...]
    saved_bytes: int
    margin_bytes: int
    status: str

    def to_dict(self) -> dict[str, Any]:
        """Return the change as JSON knows it."""
        return {
            "title": self.title,
            "words": list(self.words),
            "saved_bytes": self.saved_bytes,
            "margin_bytes": self.margin_bytes,
            "status": self.status,
        }


@dataclass(frozen=True)
class Served:
    """Shares in the engine's order, limits, and changes of a job that does not fit, the mildest that fits first."""

    shares: tuple[Held, ...]
    limits: tuple[Bound, ...] = ()
    changes: tuple[SingleChange, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON knows it."""
        return {
            "shares": [each.to_dict() for each in self.shares],
            "limits": [each.to_dict() for each in self.limits],
            "changes": [each.to_dict() for each in self.changes],
        }
