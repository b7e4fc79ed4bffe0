"""Where the driver puts segments: what decides between free blocks of one size in torch up to 2.12.

torch's pools order free blocks by size, then by address (since pytorch#183591, in torch 2.13, by the segment's age).
NVIDIA does not document the addresses of cudaMalloc. As recorded on an H100 with driver 580 (measurements/recordings,
where four of five jobs come out to the last byte): address space is taken in pieces of 32 MiB from the top downwards, a
segment lies at the start of its piece, and what is left of pieces is used first, from the lowest address on.
"""

from __future__ import annotations

from bisect import insort

from oomph.units import MIB

TOP = 1 << 60  # above everything ever taken
PIECE_BYTES = 32 * MIB


class AddressSpace:
    """Hands out addresses for segments.

    >>> space = AddressSpace()
    >>> first, second, third = (space.take(n * MIB) for n in (20, 4, 40))
    >>> (second - first) // MIB, (first - third) // MIB
    (20, 64)
    >>> space.give(first, 20 * MIB)
    >>> [(space.take(n * MIB) - first) // MIB for n in (24, 20)]  # behind the third, then where the first was
    [-24, 0]
    """

    def __init__(self) -> None:
        self._low = TOP
        self._holes: list[tuple[int, int]] = []  # (address, bytes) in order, none beside another

    def take(self, n_bytes: int) -> int:
        """Return the address of a new segment."""
        for index, (address, room) in enumerate(self._holes):
            if room >= n_bytes:
                del self._holes[index]
                if room > n_bytes:
                    self._holes.insert(index, (address + n_bytes, room - n_bytes))
                return address
        whole = -(-n_bytes // PIECE_BYTES) * PIECE_BYTES
        self._low -= whole
        if whole > n_bytes:
            self.give(self._low + n_bytes, whole - n_bytes)
        return self._low

    def give(self, address: int, n_bytes: int) -> None:
        """Take addresses back."""
        insort(self._holes, (address, n_bytes))
        joined: list[tuple[int, int]] = []
        for start, room in self._holes:
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + room)
            else:
                joined.append((start, room))
        self._holes = joined
