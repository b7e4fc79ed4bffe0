"""What the tape's tensors ask for and give back, in order, and what is known of each of them.

Nothing is added up while a job plays: bytes may be expressions, and most of what could be computed nobody asks for.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import NamedTuple

from oomph.stream import ROUND, Event, Label, Stream
from oomph.tape.sizes import Size, ceil_to, number


class Allocation(NamedTuple):
    """What a tensor was made as: its bytes, the operation, shape, dtype, and the module that was at work."""

    n_bytes: Size
    op: str
    shape: tuple[Size, ...]
    dtype: str
    scope: str


class Recorder:
    """The events of a playing job: the ordinal of an allocation, or its complement ~ordinal for the free.

    `marks` are (position in events, name of the instant that begins there); `why` says of allocations that are more
    than a temporary what they are ("parameter", "gradient", "saved for Silu"). `times` says of how many equal tensors
    an allocation stands for, where that is more than itself, and `loops` are the lengths of loops over tokens of which
    not every turn was played (see turns.py).
    """

    def __init__(self) -> None:
        self.events: list[int] = []
        self.allocations: list[Allocation] = []
        self.marks: list[tuple[int, str]] = []
        self.why: dict[int, str] = {}
        self.times: dict[int, Size] = {}
        self.loops: set[Size] = set()

    @property
    def position(self) -> int:
        """How many events there were so far."""
        return len(self.events)

    def allocate(self, n_bytes: Size, op: str, shape: tuple[Size, ...], dtype: str, scope: str) -> int:
        """Note an allocation and return its ordinal."""
        ordinal = len(self.allocations)
        self.allocations.append(Allocation(n_bytes, op, shape, dtype, scope))
        self.events.append(ordinal)
        return ordinal

    def name(self, ordinal: int, scope: str, why: str) -> None:
        """Say of an allocation that it is more than a temporary, and whose."""
        self.allocations[ordinal] = self.allocations[ordinal]._replace(scope=scope)
        self.why[ordinal] = why

    def mark(self, name: str) -> None:
        """Begin an instant."""
        self.marks.append((len(self.events), name))

    def live(self) -> Iterator[int]:
        """Yield the bytes alive before the first and after each event, every allocation rounded to 512 B."""
        rounded = [ceil_to(number(one.n_bytes), ROUND) for one in self.allocations]
        for ordinal, times in self.times.items():
            rounded[ordinal] *= number(times)
        total = 0
        yield total
        for event in self.events:
            total += rounded[event] if event >= 0 else -rounded[~event]
            yield total

    def stream(self, ops: Container[str] | None = None) -> Stream:
        """Return the events in the form that trace, measurement and allocator share; labels of these operations only.

        None asks for all labels, which are most of the work.
        """
        sizes = [number(one.n_bytes) for one in self.allocations]
        stream = Stream(marks=list(self.marks))
        stream.events = [Event(at, sizes[at]) if at >= 0 else Event(~at, -sizes[~at]) for at in self.events]
        begins = dict(self.marks)  # of several marks at one position the last one counts
        instant = ""
        for position, event in enumerate(self.events):
            instant = begins.get(position, instant)
            if event >= 0 and (ops is None or self.allocations[event].op in ops):
                made, why = self.allocations[event], self.why.get(event, "")
                shape = tuple(map(number, made.shape))
                stream.labels[event] = Label(made.op, shape, made.dtype, instant, made.scope, why)
        return stream
