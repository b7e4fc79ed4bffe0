"""A job as it was played: its events, and where in them what stands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from oomph.stream import ROUND
from oomph.tape.recorder import Recorder
from oomph.tape.sizes import ceil_to, number


@dataclass
class Played:
    """A training step or an inference on the tape. Bytes round every allocation to 512 B.

    `start` is the position of the job's first event, `forward_end` where the loss is known or the prefill is over,
    `backward_end` where all gradients are there, `end` that of its last event.
    """

    recorder: Recorder
    start: int = 0
    forward_end: int = 0
    backward_end: int = 0
    end: int = 0

    @cached_property
    def live(self) -> list[int]:
        """Bytes alive before the first event and after each one, up to the end of the step."""
        return list(self.recorder.live())[: self.end + 1]

    @property
    def peak(self) -> int:
        """The most bytes alive during the step."""
        return max(self.live[self.start :])

    @property
    def resident(self) -> int:
        """Bytes alive before the step: parameters, buffers, and what an earlier step left."""
        return self.live[self.start]

    def kept(self, why: str, position: int | None = None, unit: int = ROUND) -> int:
        """Return the bytes that are a parameter, a buffer, an optimizer state ... after so many events (None: all).

        Each is rounded up to a `unit`.
        """
        recorder = self.recorder
        events = recorder.events[: self.end if position is None else position]
        alive = {event for event in events if event >= 0} - {~event for event in events if event < 0}
        found = [recorder.allocations[ordinal] for ordinal in alive if recorder.why.get(ordinal) == why]
        return sum(ceil_to(number(one.n_bytes), unit) for one in found)
