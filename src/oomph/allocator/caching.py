"""The allocator itself: DeviceCachingAllocator of c10/cuda/CUDACachingAllocator.cpp (main of May 2026), on numbers.

Each method names the function it mirrors. Not modelled: graph captures and private pools, free-memory callbacks, and
blocks that wait for another stream (in a stream of events a free is the moment the memory returns).
"""

from __future__ import annotations

from bisect import bisect_left

from oomph.allocator.addresses import AddressSpace
from oomph.allocator.blocks import ADDRESS_BITS, ALLOCATED, FREE, Block, Pool, merge
from oomph.allocator.config import MIN_BLOCK_BYTES, SMALL_BYTES, Config
from oomph.allocator.expandable import grow_range, prefer_bounded, skip_expandable, unmap
from oomph.errors import UsageError

NO_LIMIT = 1 << ADDRESS_BITS  # more than anything asked for


class OutOfMemoryError(Exception):
    """The allocator has nothing left to give; where torch raises torch.OutOfMemoryError."""


class CachingAllocator:
    """The caching allocator of one device, with its blocks, pools and statistics.

    `capacity` is what cudaMalloc can hand out in all, None for no end of it; `device_bytes` the device's total memory,
    of which per_process_memory_fraction is a share (the capacity, if not given). Both in bytes. `lane` tells CUDA
    streams apart: a block freed on one is never handed out on another.

    >>> allocator = CachingAllocator()
    >>> block = allocator.malloc(3 * 2**20)
    >>> block.size, allocator.reserved
    (3145728, 20971520)
    >>> allocator.free(block); allocator.empty_cache(); allocator.reserved
    0
    """

    def __init__(
        self, config: Config | None = None, capacity: int | None = None, device_bytes: int | None = None
    ) -> None:
        self.capacity = NO_LIMIT if capacity is None else capacity
        self.device_bytes = capacity if device_bytes is None else device_bytes
        self.allocated = 0  # bytes in blocks handed out
        self.reserved = 0  # bytes in segments and mapped pages
        self.reserved_peak = 0
        self.segments = 0  # cudaMalloc'ed segments and unbroken stretches of mapped pages
        self.device_allocs = 0  # successful cudaMalloc and map calls (num_device_alloc)
        self.device_frees = 0  # cudaFree and unmap calls (num_device_free)
        self.retries = 0  # requests that flushed the cache (num_alloc_retries)
        self.searches = 0  # of the large pools, counted while garbage collection is on (get_free_blocks_call_count)
        self.next_address = 0  # of segments in order of their age
        self.addresses = AddressSpace()  # of segments as the driver places them
        self.had_ranges = False  # whether expandable segments may be about
        self.lanes: dict[int, tuple[Pool, Pool]] = {}
        self.configure(config or Config())

    def configure(self, config: Config) -> None:
        """Take on new settings, as torch.cuda.memory._set_allocator_settings does; blocks stay as they are."""
        self.config = config
        self.expandable = config.expandable_segments
        self.round = config.rounded if config.has_divisions else None
        self.max_split = NO_LIMIT if config.max_split_bytes is None else config.max_split_bytes
        self.allowed = NO_LIMIT
        if config.per_process_memory_fraction < 1:
            if self.device_bytes is None:
                raise UsageError(
                    "per_process_memory_fraction is a share of a device whose memory is not known.",
                    "Give the device's total memory too.",
                )
            self.allowed = int(config.per_process_memory_fraction * self.device_bytes)
        # torch collects garbage only where a memory fraction is set: without one the threshold has no effect.
        self.collects = self.allowed < NO_LIMIT and config.garbage_collection_threshold > 0
        self.had_ranges = self.expandable or self.had_ranges
        self.plain_search = not (self.had_ranges or self.collects or self.max_split < NO_LIMIT)

    def malloc(self, n_bytes: int, lane: int = 0) -> Block:
        """Return a block of at least `n_bytes` (above 0), or raise OutOfMemoryError (malloc, alloc_found_block)."""
        size = self.round(n_bytes) if self.round else -(-n_bytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES
        pools = self.lanes.get(lane) or self.lanes.setdefault(lane, (Pool(False), Pool(True)))
        pool = pools[size <= SMALL_BYTES]
        keys = pool.keys
        if self.plain_search:  # the way nearly every request goes, so kept short
            index = bisect_left(keys, size << ADDRESS_BITS)
            block = pool.blocks.pop(keys.pop(index)) if index < len(keys) else self._obtain(pool, size)
        else:
            block = self._cached(pool, size) or self._obtain(pool, size)
        rest = block.size - size
        # should_split: everywhere else a rest of up to 1 MiB stays with the block and counts as allocated
        if rest and (
            rest >= MIN_BLOCK_BYTES
            if pool.is_small or self.expandable
            else rest > SMALL_BYTES and size < self.max_split
        ):
            remainder = Block(block.address + size, rest, pool, block.range)
            remainder.born = self.searches
            remainder.link_after(block)
            block.size = size
            pool.add(remainder)
        block.state = ALLOCATED
        self.allocated += block.size
        return block

    def free(self, block: Block) -> None:
        """Take a block back into its pool, merged with free neighbours (free_block)."""
        block.state = FREE
        self.allocated -= block.size
        neighbour = block.previous
        if neighbour is not None and neighbour.state == FREE:
            merge(block, neighbour)
        neighbour = block.next
        if neighbour is not None and neighbour.state == FREE:
            merge(block, neighbour)
        block.born = self.searches
        block.pool.add(block)

    def empty_cache(self) -> None:
        """Give every whole free segment and every whole free page back to the device (release_cached_blocks)."""
        for is_small in (False, True):
            for _, pools in sorted(self.lanes.items()):
                for block in pools[is_small].in_order():
                    if block.range is not None:
                        unmap(self, block)
                    elif not block.is_split:
                        self._release(block)

    def _cached(self, pool: Pool, size: int) -> Block | None:
        """Return the best fitting free block, taken out of its pool, or None (get_free_block)."""
        if self.collects and not pool.is_small:
            self.searches += 1
        index = pool.first_of(size)
        if index == len(pool.keys):
            return None
        index = prefer_bounded(pool, index) if self.expandable else skip_expandable(pool, index)
        if index == len(pool.keys):
            return None
        found = pool.at(index).size
        if size < self.max_split <= found:
            return None  # an oversize block is not cut up for a smaller request
        if size >= self.max_split and found >= size + self.config.max_non_split_rounding_bytes:
            return None
        return pool.blocks.pop(pool.keys.pop(index))

    def _obtain(self, pool: Pool, size: int) -> Block:
        """Return a new block from the device, making room if there is none (malloc's second half)."""
        wanted = self.config.segment_bytes(size)
        if self.collects:
            self._collect_garbage()
        if self._rejects(wanted):
            raise OutOfMemoryError
        block = self._grow(pool, size, wanted)
        if block is None and self._release_oversize(pool, size):
            block = self._grow(pool, size, wanted)
        if block is None:
            self.empty_cache()
            self.retries += 1
            block = self._grow(pool, size, wanted)
        if block is None:
            raise OutOfMemoryError
        return block

    def _rejects(self, wanted: int) -> bool:
        """Tell whether throw_on_cudamalloc_oom gives up at once, without making room."""
        if not self.config.throw_on_cudamalloc_oom or self.allowed < NO_LIMIT or self.device_bytes is None:
            return False
        return self.reserved + wanted > self.device_bytes

    def _grow(self, pool: Pool, size: int, wanted: int) -> Block | None:
        """Return a new block of `wanted` bytes, or of pages for `size`, or None if it does not fit (alloc_block)."""
        if self.reserved + wanted > self.allowed:
            return None  # asked of `wanted` even where pages would take less
        if self.expandable:
            return grow_range(self, pool, size)
        if self.reserved + wanted > self.capacity:
            return None
        if self.config.by_address:
            block = Block(self.addresses.take(wanted), wanted, pool)
        else:
            block = Block(self.next_address, wanted, pool)
            self.next_address += wanted
        self.segments += 1
        self.take(wanted)
        return block

    def take(self, n_bytes: int) -> None:
        """Count bytes that the device gave."""
        self.device_allocs += 1
        self.reserved += n_bytes
        if self.reserved > self.reserved_peak:
            self.reserved_peak = self.reserved

    def give_back(self, n_bytes: int) -> None:
        """Count bytes that the device got back."""
        self.device_frees += 1
        self.reserved -= n_bytes

    def _release(self, block: Block) -> None:
        """Give a whole free segment back to the device (release_block)."""
        block.pool.remove(block)
        if self.config.by_address:
            self.addresses.give(block.address, block.size)
        self.segments -= 1
        self.give_back(block.size)

    def _release_oversize(self, pool: Pool, size: int) -> bool:
        """Give back just enough oversize blocks; tell if that made room (release_available_cached_blocks)."""
        if self.max_split == NO_LIMIT:
            return False
        wanted = max(size, self.max_split)
        index = pool.first_of(wanted)
        if index < len(pool.keys) and pool.at(index).range is None:
            # torch asks nothing about neighbours here: a block of this size is never split off a segment
            self._release(pool.at(index))
            return True
        released = 0
        for block in reversed(pool.in_order()[:index]):
            if released >= wanted or block.size < self.max_split:
                break
            if block.range is None:
                released += block.size
                self._release(block)
        return released >= wanted

    def _collect_garbage(self) -> None:
        """Give back the longest unused large segments while above the threshold (garbage_collect_cached_blocks)."""
        threshold = int(self.config.garbage_collection_threshold * self.allowed)
        target = self.reserved - threshold
        whole = [b for _, pools in sorted(self.lanes.items()) for b in pools[False].in_order() if not b.is_split]
        total_age = sum(self.searches - block.born for block in whole)
        reclaimed, left, freed = 0, len(whole), target > 0
        while reclaimed < target and freed and left:
            # The average is over what is still there, and all at or above it go, even past the target.
            limit, freed, kept = total_age / left, False, []
            for block in whole:
                age = self.searches - block.born
                if block.range is not None or age < limit:
                    kept.append(block)
                    continue
                freed = True
                reclaimed += block.size
                total_age -= age
                left -= 1
                self._release(block)
            whole = kept
