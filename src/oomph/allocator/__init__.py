"""A model of torch's CUDA caching allocator: from what a job asks for to what it reserves.

>>> from oomph.stream import Event, Stream
>>> result = replay(Stream([Event(0, 3 * 2**20), Event(1, 600)]))
>>> result.allocated_peak_bytes, result.reserved_peak_bytes // 2**20
(3146752, 22)
"""

from __future__ import annotations

from oomph.allocator.caching import CachingAllocator, OutOfMemoryError
from oomph.allocator.config import Config
from oomph.allocator.playback import Again, OutOfMemory, Replay, replay, reserved_series

__all__ = [
    "Again", "CachingAllocator", "Config", "OutOfMemory", "OutOfMemoryError", "Replay", "replay", "reserved_series",
]  # fmt: skip
