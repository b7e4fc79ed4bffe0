"""The autograd engine's queue of nodes that may run: the one recorded last first, and ties as a heap leaves them.

Leaves (AccumulateGrad) all rank the same. In which order they come out of std::priority_queue is neither the order
they went in nor its reverse, but it is always the same, and it decides when gradients are copied and freed.
Source: torch/csrc/autograd/engine.h, CompareNodeTaskTime; libstdc++ 14, bits/stl_heap.h.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class ReadyQueue(Generic[T]):
    """A max-heap of (rank, entry) that moves entries as libstdc++'s push_heap and pop_heap do.

    Six leaves of one node, behind which another node waits:
    >>> queue = ReadyQueue()
    >>> for rank, name in [(3, "x"), *((9, leaf) for leaf in ("qA", "qB", "kA", "kB", "vA", "vB"))]:
    ...     queue.push(rank, name)
    >>> [queue.pop() for _ in range(7)]
    ['qA', 'qB', 'vA', 'vB', 'kB', 'kA', 'x']
    """

    def __init__(self) -> None:
        self.heap: list[tuple[int, T]] = []

    def __len__(self) -> int:
        return len(self.heap)

    def push(self, rank: int, entry: T) -> None:
        """Put an entry in, above all that rank lower."""
        self.heap.append((rank, entry))
        self._rise(len(self.heap) - 1)

    def pop(self) -> T:
        """Take out an entry of the highest rank."""
        heap = self.heap
        (_, first), last = heap[0], heap.pop()
        if not heap:
            return first
        hole, size = 0, len(heap)
        while (child := 2 * hole + 1) < size:  # to the bottom, by the larger child, the right one of two alike
            if child + 1 < size and heap[child + 1][0] >= heap[child][0]:
                child += 1
            heap[hole] = heap[child]
            hole = child
        heap[hole] = last
        self._rise(hole)
        return first

    def _rise(self, hole: int) -> None:
        heap, moved = self.heap, self.heap[hole]
        while hole and heap[(hole - 1) // 2][0] < moved[0]:
            heap[hole] = heap[(hole - 1) // 2]
            hole = (hole - 1) // 2
        heap[hole] = moved
