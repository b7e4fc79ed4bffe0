"""What a process holds beside its tensors. Unknown in part, so it widens the safe bound and is named.

The allocator part follows the rules of torch's CUDA caching allocator (c10/cuda/CUDACachingAllocator.cpp,
torch 2.13): sizes round up to 512 B; up to 1 MiB come from 2 MiB segments, up to 10 MiB from 20 MiB segments,
larger ones get a segment of their own rounded up to 2 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from oomph.constants import measured
from oomph.ledger import Item
from oomph.units import KIB, MIB

if TYPE_CHECKING:
    from oomph.devices import Device

ROUND = KIB // 2
SMALL, SMALL_SEGMENT = MIB, 2 * MIB
MIDDLE, MIDDLE_SEGMENT = 10 * MIB, 20 * MIB
LARGE_ROUND = 2 * MIB


def segment_bytes(size: int, copies: int) -> int:
    """Return the device memory torch reserves for `copies` tensors of `size` bytes, each size packed alone.

    >>> segment_bytes(8 * MIB, 3) // MIB, segment_bytes(100, 1) // MIB, segment_bytes(21 * MIB, 1) // MIB
    (40, 2, 22)
    """
    size = -(-size // ROUND) * ROUND
    if size == 0:
        return 0
    if size > MIDDLE:
        return -(-size // LARGE_ROUND) * LARGE_ROUND * copies
    segment = SMALL_SEGMENT if size <= SMALL else MIDDLE_SEGMENT
    return -(-copies // (segment // size)) * segment


def reserves(tensors: Iterable[tuple[int, int]], device: Device | None = None) -> Sequence[Item]:
    """Return what comes on top of resident tensors, given as (bytes of one, copies): point 0, safe bound above.

    The allocator's slack assumes that tensors of one size share segments and different sizes do not, which is
    more than torch needs when it loads a model. The CUDA context is that of the device, of an unknown one the largest.
    """
    sizes: dict[int, int] = {}
    for size, copies in tensors:
        sizes[size] = sizes.get(size, 0) + copies
    total = sum(size * copies for size, copies in sizes.items())
    slack = sum(segment_bytes(size, copies) for size, copies in sizes.items()) - total
    context = measured("cuda_context", device)
    return (
        Item(
            "allocator rounding", "runtime", 0, safe=slack, source="rule",
            evidence="torch 2.13 CUDACachingAllocator: 512 B rounding, 2/20 MiB segments",
        ),
        Item("CUDA context", "runtime", 0, safe=context.high, source="measured", evidence=context.evidence),
    )  # fmt: skip
