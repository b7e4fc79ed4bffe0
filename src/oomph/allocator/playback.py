"""Playing a stream of allocations through the caching allocator: what it reserves, and whether it runs out.

>>> from oomph.stream import Event, Stream
>>> stream = Stream([Event(0, 30 * 2**20), Event(0, -30 * 2**20), Event(1, 40 * 2**20)])
>>> replay(stream).reserved_peak_bytes // 2**20  # the first segment is too small for the second request, and stays
70
>>> replay(stream, capacity=64 * 2**20).retries  # no room for both: the cache is emptied
1
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from oomph.allocator.blocks import Block
from oomph.allocator.caching import CachingAllocator, OutOfMemoryError
from oomph.allocator.config import Config
from oomph.errors import UsageError
from oomph.stream import EMPTIED, Event, Stream


@dataclass(frozen=True)
class OutOfMemory:
    """Where a replay ran out: the event, what it asked for, and what was held at that moment (all bytes)."""

    position: int
    ordinal: int
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int


@dataclass(frozen=True)
class Replay:
    """What the caching allocator did with a stream. Sizes in bytes.

    `allocated` is as torch.cuda.memory_allocated counts: whole blocks, with the rest that was not worth splitting off.
    `reserved` is as torch.cuda.memory_reserved counts, its peak also within an event. `segments_at_peak` and
    `allocated_at_reserved_peak_bytes` hold after the event that first reached the reserved peak. `device_allocs` are
    the cudaMalloc (or page mapping) calls, `retries` the requests that emptied the cache first. `reserved_changes` is
    (events played, reserved bytes) wherever it changed; an emptying between two events counts to the one before.
    """

    allocated_peak_bytes: int
    reserved_peak_bytes: int
    allocated_at_reserved_peak_bytes: int
    segments_at_peak: int
    allocated_end_bytes: int
    reserved_end_bytes: int
    device_allocs: int
    device_frees: int
    retries: int
    oom: OutOfMemory | None
    events_played: int
    reserved_changes: tuple[tuple[int, int], ...]

    @property
    def active_peak_bytes(self) -> int:
        """The peak of torch's active_bytes: the same as allocated, for in a stream a freed block is free at once.

        They differ only while a block that another CUDA stream used waits for that stream.
        """
        return self.allocated_peak_bytes

    @property
    def fragmentation_bytes(self) -> int:
        """What is reserved but not allocated when most is reserved."""
        return self.reserved_peak_bytes - self.allocated_at_reserved_peak_bytes

    @property
    def fits(self) -> bool:
        """Whether the whole stream was played."""
        return self.oom is None


@dataclass(frozen=True)
class Again:
    """One more step behind a stream, in numbers of its own: `events` are what it allocates and the complements of what
    it frees, in order, `sizes` the bytes of each allocation (0 for a free). What `moved` names, as (number before,
    number now), lies there when it begins; what is freed without lying there is passed over. `lanes` as in a stream."""

    events: Sequence[int]
    sizes: Sequence[int]
    moved: Sequence[tuple[int, int]]
    lanes: Mapping[int, int]


def replay(
    stream: Stream,
    config: Config | None = None,
    capacity: int | None = None,
    device_bytes: int | None = None,
    empty_cache_at: Collection[str] = (EMPTIED,),
    lanes: Mapping[int, int] | None = None,
    then: Iterable[Again] = (),
) -> Replay:
    """Play a stream from an empty allocator and tell what happened; it stops where memory runs out.

    `capacity` is what the device can give (bytes; None: no end), `device_bytes` its total memory where a fraction of it
    is allowed. The cache is emptied at every mark of the stream named in `empty_cache_at`. `lanes` gives the CUDA
    stream of an ordinal where that is not the default one, in place of what the events' stream says of them. `then`
    are more steps behind the stream.

    >>> steps = Stream([Event(0, 8 * 2**20), Event(0, -8 * 2**20), Event(1, 512)], marks=[(2, "step ends")])
    >>> [r.reserved_end_bytes // 2**20 for r in (replay(steps), replay(steps, empty_cache_at=["step ends"]))]
    [22, 2]
    """
    return _Player(CachingAllocator(config, capacity, device_bytes), lanes or stream.lanes).play(
        stream, empty_cache_at, then
    )


def reserved_series(result: Replay) -> list[int]:
    """Return the reserved bytes after each event that was played.

    >>> reserved_series(replay(Stream([Event(0, 512), Event(1, 2**21), Event(0, -512)])))
    [2097152, 23068672, 23068672]
    """
    series: list[int] = []
    reserved = 0
    for played, changed in result.reserved_changes:
        series += [reserved] * (played - 1 - len(series))
        reserved = changed
        if played:
            series[played - 1 :] = [reserved]
    return series + [reserved] * (result.events_played - len(series))


class _Player:
    """One replay under way."""

    def __init__(self, allocator: CachingAllocator, lanes: Mapping[int, int]) -> None:
        self.allocator = allocator
        self.lanes = lanes
        self.blocks: dict[int, Block] = {}
        self.changes: list[tuple[int, int]] = []
        self.allocated_peak = self.reserved_peak = 0
        self.allocated_at_peak = self.segments_at_peak = 0

    def play(self, stream: Stream, empty_cache_at: Collection[str], then: Iterable[Again]) -> Replay:
        """Play the stretches between the marks at which the cache is emptied, and the steps behind them."""
        played, oom = 0, None
        flushes = {position for position, name in stream.marks if name in empty_cache_at}
        for stop in sorted(flushes | {len(stream.events)}):
            played, oom = self._stretch(stream.events, played, stop)
            if oom is not None:
                break
            if stop in flushes:
                self.allocator.empty_cache()
                self._changed(played)
        for step in then if oom is None else ():
            played, oom = self._again(step, played)
            if oom is not None:
                break
        return self._result(played, oom)

    def _stretch(self, events: list[Event], start: int, stop: int) -> tuple[int, OutOfMemory | None]:
        """Play events[start:stop]; return how many of all events were played, and the end of memory if it came."""
        allocator, blocks, lanes = self.allocator, self.blocks, self.lanes
        malloc, free = allocator.malloc, allocator.free
        reserved, peak = allocator.reserved, self.allocated_peak
        for position in range(start, stop):
            ordinal, n_bytes = events[position]
            try:
                if n_bytes > 0:
                    if ordinal in blocks:
                        raise _wrong(position, f"allocates {ordinal}, which is alive")
                    blocks[ordinal] = malloc(n_bytes, lanes[ordinal]) if ordinal in lanes else malloc(n_bytes)
                    if allocator.allocated > peak:
                        peak = allocator.allocated
                elif n_bytes < 0:
                    free(blocks.pop(ordinal))
            except OutOfMemoryError:
                self.allocated_peak = peak
                self._changed(position)
                oom = OutOfMemory(position, ordinal, n_bytes, allocator.allocated, allocator.reserved)
                return position, oom
            except KeyError:
                raise _wrong(position, f"frees {ordinal}, which is not alive") from None
            if allocator.reserved != reserved:
                reserved = allocator.reserved
                self._changed(position + 1)
        self.allocated_peak = peak
        return stop, None

    def _again(self, step: Again, played: int) -> tuple[int, OutOfMemory | None]:
        """Play one more step; return how many of all events were played, and the end of memory if it came."""
        allocator, lanes = self.allocator, step.lanes
        malloc, free = allocator.malloc, allocator.free
        blocks = {now: self.blocks[before] for before, now in step.moved if before in self.blocks}
        for position, (at, n_bytes) in enumerate(zip(step.events, step.sizes, strict=True), played):
            if at >= 0:
                try:
                    blocks[at] = malloc(n_bytes, lanes[at]) if at in lanes else malloc(n_bytes)
                except OutOfMemoryError:
                    self._changed(position)
                    return position, OutOfMemory(position, at, n_bytes, allocator.allocated, allocator.reserved)
                if allocator.allocated > self.allocated_peak:
                    self.allocated_peak = allocator.allocated
            elif ~at in blocks:
                free(blocks.pop(~at))
        self.blocks = blocks
        if allocator.reserved_peak > self.reserved_peak:
            self._changed(played + len(step.events))
        return played + len(step.events), None

    def _changed(self, played: int) -> None:
        """Note what is reserved now, and the state at a new peak."""
        allocator = self.allocator
        self.changes.append((played, allocator.reserved))
        if allocator.reserved_peak > self.reserved_peak:
            self.reserved_peak = allocator.reserved_peak
            self.allocated_at_peak, self.segments_at_peak = allocator.allocated, allocator.segments

    def _result(self, played: int, oom: OutOfMemory | None) -> Replay:
        allocator = self.allocator
        return Replay(
            allocated_peak_bytes=self.allocated_peak,
            reserved_peak_bytes=self.reserved_peak,
            allocated_at_reserved_peak_bytes=self.allocated_at_peak,
            segments_at_peak=self.segments_at_peak,
            allocated_end_bytes=allocator.allocated,
            reserved_end_bytes=allocator.reserved,
            device_allocs=allocator.device_allocs,
            device_frees=allocator.device_frees,
            retries=allocator.retries,
            oom=oom,
            events_played=played,
            reserved_changes=tuple(self.changes),
        )


def _wrong(position: int, what: str) -> UsageError:
    return UsageError(f"Event {position} of the stream {what}.", "Every allocation has its own ordinal.")
