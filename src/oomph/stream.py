"""What memory a job asks for and gives back, in order: the one form that tape, trace, measurement and allocator share.

An allocation has an ordinal; its event is (ordinal, +bytes), the matching free (ordinal, -bytes). Bytes are as
requested; `live` rounds each to 512 B as torch's allocator counts them. `marks` name instants ("forward", "layer 3
backward", "optimizer step"): (position in events, name), in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

ROUND = 512  # c10/cuda/CUDACachingAllocator.cpp kMinBlockSize
EMPTIED = "cache emptied"  # a mark at which a job empties the allocator's cache


class Event(NamedTuple):
    """One allocation (bytes > 0) or free (bytes < 0) of the tensor with this ordinal."""

    ordinal: int
    n_bytes: int


class Label(NamedTuple):
    """What an allocation is: the operation that made it, its shape and dtype, the instant it was made in.

    Where it is known: `scope`, the module or parameter it belongs to, and `why` it is more than a temporary
    ("parameter", "gradient", "saved for Silu").
    """

    op: str
    shape: tuple[int, ...]
    dtype: str
    instant: str
    scope: str = ""
    why: str = ""


@dataclass
class Stream:
    """The events of one job with names for its instants and allocations.

    `lanes` tells CUDA streams apart: that of an ordinal which was not allocated on the first one.

    >>> stream = Stream([Event(0, 100), Event(1, 600), Event(0, -100)])
    >>> stream.peak_bytes, stream.live_at(3)
    (1536, {1: 600})
    """

    events: list[Event] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)
    labels: dict[int, Label] = field(default_factory=dict)
    lanes: dict[int, int] = field(default_factory=dict)

    def live(self) -> Iterator[int]:
        """Yield the bytes alive after each event, every allocation rounded to 512 B."""
        total = 0
        for _, n_bytes in self.events:
            total += rounded(n_bytes) if n_bytes > 0 else -rounded(-n_bytes)
            yield total

    @property
    def peak_bytes(self) -> int:
        """The most bytes alive at any moment."""
        return max(self.live(), default=0)

    def live_at(self, position: int) -> dict[int, int]:
        """Return ordinal -> requested bytes of everything alive after `position` events."""
        alive: dict[int, int] = {}
        for ordinal, n_bytes in self.events[:position]:
            if n_bytes > 0:
                alive[ordinal] = n_bytes
            else:
                del alive[ordinal]
        return alive


def rounded(n_bytes: int) -> int:
    """Return bytes rounded up to the allocator's 512 B.

    >>> rounded(0), rounded(1), rounded(512)
    (0, 512, 512)
    """
    return -(-n_bytes // ROUND) * ROUND
