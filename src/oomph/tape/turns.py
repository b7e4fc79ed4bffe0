"""Loops over tokens whose turns are alike, each of which leaves tensors: played turn by turn, or cut short.

Heights need no more than a few turns: what the others leave is one allocation that stands for so many, and the last
turn comes with all of it alive. So the length of the loop stays open, and a step is played once for all lengths. The
allocator wants every turn in its place: what they do is read off loops of a few turns (unfold.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

from oomph.tape.sizes import Size, settled, yes
from oomph.tape.sym import Sym, new

if TYPE_CHECKING:
    from oomph.tape.tape import Tape

Turns: TypeAlias = int | Literal["all", "heights"]  # that are played: so many, all, those that heights need
FIRST, LAST = 2, 1  # that heights need: the first one finds nothing of one before it
READ = 4  # times as many turns as in training take as long where nothing is saved for backward


def turns(tape: Tape, length: Size, left: list[Sym]) -> Iterator[int]:
    """Yield the numbers of the turns to play; each adds to `left` what it leaves.

    Of a loop that is not as long as what is to be played every turn is.

    >>> from oomph.tape import Tape
    >>> tape = Tape()
    >>> tape.turns, left = "heights", []
    >>> [left.append(tape.empty((256,), "fp16")) for _ in turns(tape, 100, left)], max(tape.recorder.live())
    ([None, None, None], 51200)
    """
    few = FIRST + LAST if tape.turns == "heights" else tape.turns
    if few == "all" or not yes(length > few):
        yield from range(settled(length))
        return
    tape.recorder.loops.add(length)
    for turn in range(few):
        if tape.turns == "heights" and turn == FIRST:
            left.append(_many(left[-1], length - few))
        yield turn


def _many(one: Sym, times: Size) -> Sym:
    """Return what stands for so many tensors like one."""
    recorder = one.tape.recorder
    like = recorder.allocations[one.storage.ordinal]
    made = new(one.tape, one.shape, one.dtype, one.strides, like.op)
    recorder.times[made.storage.ordinal] = times
    return made


def scan(tape: Tape, length: Size) -> Iterator[int]:
    """Yield the numbers of the turns to play of a scan, each of which leaves what its backward needs.

    For heights the second turn stands for all that are not played: what it leaves to the turns after the next one is
    there as many times, and goes at once when its backward has run. From turn to turn heights rise, or fall, by the
    same bytes, so the highest is in the first or the last one, which are played.

    >>> from oomph.tape import Tape
    >>> tape = Tape()
    >>> tape.turns, kept = "heights", []
    >>> [kept.append(tape.empty((256,), "fp16")) for _ in scan(tape, 100)], max(tape.recorder.live())
    ([None, None, None, None], 51200)
    """
    few = FIRST + 1 + LAST if tape.turns == "heights" else tape.turns
    if few == "all" or not yes(length > few):
        yield from range(settled(length))
        return
    recorder = tape.recorder
    recorder.loops.add(length)
    begin = end = start = 0
    for turn in range(few):
        if turn == 1:
            begin, start = len(recorder.allocations), len(recorder.events)
        elif turn == FIRST:
            end = len(recorder.allocations)
        yield turn
        if tape.turns == "heights" and turn == FIRST:
            freed = {~event for event in recorder.events[start:] if event < 0}
            for ordinal in range(begin, end):
                if ordinal not in freed:
                    recorder.times[ordinal] = length - few + 1
